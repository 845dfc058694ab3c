"""Where in the depth of a model a tensor sits, read from its name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

CONTAINER = re.compile(r"(?:^|\.)(?:layers|layer|h|blocks|block|resblocks)\.(\d+)(?=\.|$)")
INPUT_SIDE = re.compile(r"embed(?!_out)|wte|wpe|patch|cls_token|class_token|conv1|ln_pre|shared")
INPUT_EMBEDDING = re.compile(r"(?:embed_tokens|wte|word_embeddings|embed_in|tok_embeddings|embeddings|shared)\.weight$")
HEAD = re.compile(r"(?:^|\.)(?:lm_head|embed_out)\.weight$")


@dataclass(frozen=True, slots=True)
class Block:
    """Block `index` of the `count` blocks of one stack (an encoder and a decoder are two stacks)."""

    stack: str
    index: int
    count: int

    @property
    def depth(self) -> float:
        """0 for the first block, 1 for the last; a single block counts as the last."""
        return self.index / (self.count - 1) if self.count > 1 else 1.0


def find_blocks(names: Iterable[str]) -> Mapping[str, Block]:
    """The block of each tensor or module that lies in one, by its name."""
    found: dict[str, tuple[str, int]] = {}
    counts: dict[str, int] = {}
    for name in names:
        match = CONTAINER.search(name)
        if match is None:
            continue
        stack, index = name[: match.start(1)], int(match[1])
        found[name] = stack, index
        counts[stack] = max(counts.get(stack, 0), index + 1)
    return {name: Block(stack, index, counts[stack]) for name, (stack, index) in found.items()}


def depth_of(name: str, blocks: Mapping[str, Block]) -> float:
    """The place of a tensor on a gradient: its block's; outside the blocks 0, for the head too, as in mergekit."""
    return blocks[name].depth if name in blocks else 0.0


def is_before_the_blocks(name: str) -> bool:
    """Whether a tensor outside the blocks belongs to the input side, as embeddings do."""
    return INPUT_SIDE.search(name) is not None


def renumbered(name: str, block: Block, index: int) -> str:
    """The name of the tensor `name` of `block` in block `index` of the same stack."""
    return f"{block.stack}{index}{name[len(block.stack) + len(str(block.index)) :]}"
