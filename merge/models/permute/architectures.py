"""Which units of which architectures can change places: neurons of MLPs, heads of attention, the residual stream.

An MLP's neurons are rows of the layers that make them and columns of the layer that reads them. Attention heads move
in groups: a key and value head with all query heads that read it; and within a group the query heads move among
themselves. The residual stream moves through every layer at once, which RMSNorm and LayerNorm allow.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graftwork.errors import InvalidCheckpoint, InvalidRecipe
from graftwork.merge.models.permute.permutation import Group, Member
from graftwork.registry.formats.checkpoint import CheckpointLayout


@dataclass(frozen=True, slots=True)
class Architecture:
    """How one family of models names its layers; module names are those within a block.

    transposed: weights are [in, out], as GPT-2's Conv1D keeps them
    fused:      q holds queries, keys and values behind one another
    stream:     further tensors that the residual stream runs through, by name or end of a name, and their axes
    """

    model_types: frozenset[str]
    block: re.Pattern[str]
    neurons: tuple[str, ...]
    reader: str
    q: str
    k: str
    v: str
    o: str
    inner_size: str
    transposed: bool = False
    fused: bool = False
    stream: Mapping[str, int] | None = None


ARCHITECTURES = (
    Architecture(
        frozenset({"llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2"}),
        re.compile(r"^(?:.*\.)?layers\.\d+(?=\.)"),
        neurons=("mlp.gate_proj", "mlp.up_proj"),
        reader="mlp.down_proj",
        q="self_attn.q_proj",
        k="self_attn.k_proj",
        v="self_attn.v_proj",
        o="self_attn.o_proj",
        inner_size="intermediate_size",
        stream={
            "embed_tokens.weight": 1,
            "lm_head.weight": 1,
            "model.norm.weight": 0,
            "input_layernorm.weight": 0,
            "post_attention_layernorm.weight": 0,
            "pre_feedforward_layernorm.weight": 0,
            "post_feedforward_layernorm.weight": 0,
        },
    ),
    Architecture(
        frozenset({"bert", "roberta", "xlm-roberta", "camembert", "electra"}),
        re.compile(r"^(?:.*\.)?encoder\.layer\.\d+(?=\.)"),
        neurons=("intermediate.dense",),
        reader="output.dense",
        q="attention.self.query",
        k="attention.self.key",
        v="attention.self.value",
        o="attention.output.dense",
        inner_size="intermediate_size",
    ),
    Architecture(
        frozenset({"gpt2"}),
        re.compile(r"^(?:transformer\.)?h\.\d+(?=\.)"),
        neurons=("mlp.c_fc",),
        reader="mlp.c_proj",
        q="attn.c_attn",
        k="",
        v="",
        o="attn.c_proj",
        inner_size="n_inner",
        transposed=True,
        fused=True,
    ),
)


def architecture_of(layout: CheckpointLayout, label: str) -> Architecture:
    """The architecture of a checkpoint. Raises InvalidRecipe for one whose units are not declared here."""
    kind = (layout.config or {}).get("model_type")
    for architecture in ARCHITECTURES:
        if kind in architecture.model_types:
            return architecture
    known = ", ".join(sorted(name for architecture in ARCHITECTURES for name in architecture.model_types))
    reason = f"units can be matched in models of the types {known}, and {label} is of the type {kind!r}"
    raise InvalidRecipe(where="merge_method", reason=reason)


def groups_of(layout: CheckpointLayout, label: str, *, heads: bool, residual: bool) -> tuple[Group, ...]:
    """The groups of units of a checkpoint: for every block its MLP and its heads; the residual stream at the end.

    Raises InvalidRecipe for other architectures, InvalidCheckpoint where a tensor is missing or its size unexpected.
    """
    architecture = architecture_of(layout, label)
    if residual and architecture.stream is None:
        kinds = ", ".join(sorted(architecture.model_types))
        reason = f"the residual stream can be matched in llama and its kin, and not in {kinds}"
        raise InvalidRecipe(where="parameters.residual", reason=reason)
    finder = _Finder(architecture, layout, label)
    blocks = dict.fromkeys(match[0] for name in layout.tensors if (match := architecture.block.search(name)))
    groups = [group for block in blocks for group in finder.of_block(block, heads=heads)]
    if residual:
        groups.append(finder.residual(tuple(blocks)))
    _check_sizes(groups, layout, label)
    return tuple(groups)


def _check_sizes(groups: Sequence[Group], layout: CheckpointLayout, label: str) -> None:
    """Every axis that holds units must hold those of its groups and nothing else. Raises InvalidCheckpoint."""
    wanted: dict[tuple[str, int], int] = {}
    for group in groups:
        for member in group.members:
            key = member.tensor, member.axis
            wanted[key] = max(wanted.get(key, 0), member.offset + group.units * member.block)
    for (name, axis), size in wanted.items():
        shape = layout.tensors[name].info.shape
        if axis >= len(shape) or shape[axis] != size:
            reason = f"the tensor {name!r} is {list(shape)}; its units need {size} along dimension {axis}"
            raise InvalidCheckpoint(path=label, reason=reason)


@dataclass(frozen=True, slots=True)
class _Finder:
    architecture: Architecture
    layout: CheckpointLayout
    label: str

    def of_block(self, block: str, *, heads: bool) -> Iterator[Group]:
        """The groups of one block."""
        made = self.architecture.neurons
        units = self._size(f"{block}.{made[0]}", out=True)
        members = [member for name in made for member in self._making(f"{block}.{name}")]
        reader = self._reading(f"{block}.{self.architecture.reader}")
        yield Group(f"{block} neurons", units, (*members, reader), grows=True)
        if heads:
            yield from self._heads(block)

    def residual(self, blocks: tuple[str, ...]) -> Group:
        """The stream that every block reads from and adds to."""
        kind = self.architecture
        members = []
        for name in self.layout.tensors:
            axis = next((axis for end, axis in (kind.stream or {}).items() if f".{name}".endswith(f".{end}")), None)
            if axis is not None:
                members.append(Member(name, axis))
        for block in blocks:
            members += [self._reading(f"{block}.{name}") for name in (kind.q, kind.k, kind.v, *kind.neurons)]
            for name in (kind.o, kind.reader):
                members += self._making(f"{block}.{name}")
        units = self._size(f"{blocks[0]}.{kind.q}", out=False)
        return Group("residual stream", units, tuple(members))

    def _heads(self, block: str) -> Iterator[Group]:
        kind = self.architecture
        count = self._number("num_attention_heads", "n_head")
        q, o = f"{block}.{kind.q}", self._reading(f"{block}.{kind.o}")
        if kind.fused:
            width = self._size(q, out=True) // 3
            size = width // count
            shared = [
                Member(member.tensor, member.axis, size, part * width)
                for part in range(3)
                for member in self._making(q)
            ]
            yield Group(f"{block} heads", count, (*shared, Member(o.tensor, o.axis, size, consumes=True)))
            return
        size = self._size(q, out=True) // count
        groups = self._size(f"{block}.{kind.k}", out=True) // size
        each = count // groups
        if size * groups * each != self._size(q, out=True):
            reason = f"{q!r} and {block}.{kind.k!r} do not have heads of one size"
            raise InvalidCheckpoint(path=self.label, reason=reason)
        members = [Member(m.tensor, m.axis, size * each) for m in self._making(q)]
        members += [Member(m.tensor, m.axis, size) for n in (kind.k, kind.v) for m in self._making(f"{block}.{n}")]
        yield Group(f"{block} heads", groups, (*members, Member(o.tensor, o.axis, size * each, consumes=True)))
        for number in range(groups if each > 1 else 0):
            start = number * each * size
            inner = [Member(m.tensor, m.axis, size, start) for m in self._making(q)]
            inner.append(Member(o.tensor, o.axis, size, start, consumes=True))
            yield Group(f"{block} queries of head {number}", each, tuple(inner))

    def _making(self, module: str) -> list[Member]:
        """The weight of a layer by its outputs, and its bias where it has one."""
        members = [Member(self._weight(module), 1 if self.architecture.transposed else 0)]
        return [*members, Member(f"{module}.bias", 0)] if f"{module}.bias" in self.layout.tensors else members

    def _reading(self, module: str) -> Member:
        """The weight of a layer by its inputs."""
        return Member(self._weight(module), 0 if self.architecture.transposed else 1, consumes=True)

    def _weight(self, module: str) -> str:
        name = f"{module}.weight"
        if name not in self.layout.tensors or len(self.layout.tensors[name].info.shape) != 2:
            raise InvalidCheckpoint(path=self.label, reason=f"it has no matrix {name!r}, whose units are to be matched")
        return name

    def _size(self, module: str, *, out: bool) -> int:
        shape = self.layout.tensors[self._weight(module)].info.shape
        return shape[0] if out != self.architecture.transposed else shape[1]

    def _number(self, *keys: str) -> int:
        config: Mapping[str, Any] = self.layout.config or {}
        for key in keys:
            if isinstance(config.get(key), int):
                return int(config[key])
        raise InvalidCheckpoint(path=self.label, reason=f"its config.json has no {keys[0]}")
