"""Which tensors of the inputs make which tensor of the output, layer by layer.

Without slices every tensor is made from those of the same name. With slices the layers of the output are those of the
slices, one after another; embeddings and what else comes before the layers is made from the models of the first slice,
the final norm, the head and what else comes after them from those of the last.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from graftwork.errors import IncompatibleModels, InvalidRecipe
from graftwork.merge.models.compatibility import VOCABULARY_HINT
from graftwork.merge.models.layers import (
    HEAD,
    INPUT_EMBEDDING,
    Block,
    depth_of,
    find_blocks,
    is_before_the_blocks,
    renumbered,
)
from graftwork.merge.models.readers import Reader
from graftwork.merge.plan.inputs import Inputs, Section


@dataclass(frozen=True, slots=True)
class Slot:
    """One tensor of the output: its section, and what each operand of that section calls it."""

    name: str
    section: int
    names: tuple[str, ...]
    depth: float
    block: Block | None


def lay_out(inputs: Inputs, readers: Sequence[Sequence[Reader]]) -> tuple[Slot, ...]:
    """Every tensor of the output. `readers` are those of each section's operands.

    Raises InvalidRecipe for layers that a model does not have, IncompatibleModels for layers of different tensors.
    """
    if inputs.sections[0].length is None:
        return _whole(readers[0])
    return tuple(_stacked(inputs.sections, readers))


def _whole(readers: Sequence[Reader]) -> tuple[Slot, ...]:
    names = list(readers[0].layout.tensors)
    blocks = find_blocks(names)
    return tuple(Slot(name, 0, (name,) * len(readers), depth_of(name, blocks), blocks.get(name)) for name in names)


def _stacked(sections: Sequence[Section], readers: Sequence[Sequence[Reader]]) -> Iterator[Slot]:
    towers = {id(reader): _Tower.of(reader) for part in readers for reader in part}
    total = sum(section.length or 0 for section in sections)
    outside = [name for name in readers[0][0].layout.tensors if name not in towers[id(readers[0][0])].blocks]
    for name in outside:
        if is_before_the_blocks(name):
            yield Slot(name, 0, (name,) * len(readers[0]), 0.0, None)
    stack, done = towers[id(readers[0][0])].stack, 0
    kinds = _kinds_by_number(readers[0][0], towers[id(readers[0][0])])
    for position, section in enumerate(sections):
        length = section.length or 0
        members = [
            (operand.first, towers[id(reader)])
            for operand, reader in zip(section.operands, readers[position], strict=True)
        ]
        for first, tower in members:
            if first + length > len(tower.layers):
                reason = f"layers {first} to {first + length - 1} of {tower.label}, which has {len(tower.layers)}"
                raise InvalidRecipe(where=section.where, reason=reason)
        for step in range(length):
            layers = [tower.layers[first + step] for first, tower in members]
            _check_alike(layers, members, step)
            if done < len(kinds) and layers[0].keys() != kinds[done]:
                reason = (
                    f"layer {done} of the output would be of another kind than layer {done} of {readers[0][0].label}"
                )
                raise InvalidRecipe(
                    where=section.where, reason=f"{reason}, and config.json numbers the kinds of layers"
                )
            depth = step / (length - 1) if length > 1 else 1.0
            for suffix, name in layers[0].items():
                names = tuple(layer[suffix] for layer in layers)
                block = Block(stack, done, total)
                yield Slot(renumbered(name, members[0][1].blocks[name], done), position, names, depth, block)
            done += 1
    _check_vocabularies(readers)
    for name in outside:
        if not is_before_the_blocks(name):
            yield Slot(name, len(sections) - 1, (name,) * len(readers[-1]), 0.0, None)


@dataclass(frozen=True, slots=True)
class _Tower:
    """One model's stack of layers: for each, its tensors by what follows the layer's number."""

    label: str
    stack: str
    blocks: Mapping[str, Block]
    layers: Sequence[Mapping[str, str]]

    @classmethod
    def of(cls, reader: Reader) -> _Tower:
        blocks = find_blocks(reader.layout.tensors)
        stacks = sorted({block.stack for block in blocks.values()})
        if len(stacks) != 1:
            found = " and ".join(stacks) or "none"
            reason = f"{reader.label} has {len(stacks)} stacks of layers ({found}); slices are for models that have one"
            raise InvalidRecipe(where="slices", reason=reason)
        layers: list[dict[str, str]] = [{} for _ in range(max(block.index for block in blocks.values()) + 1)]
        for name, block in blocks.items():
            layers[block.index][name[len(block.stack) + len(str(block.index)) :]] = name
        return cls(reader.label, stacks[0], blocks, layers)


def _kinds_by_number(reader: Reader, tower: _Tower) -> Sequence[Collection[str]]:
    """What the tensors of each layer are called, where layers differ and config.json has no list that says how."""
    kinds = [layer.keys() for layer in tower.layers]
    config = reader.layout.config or {}
    listed = any(isinstance(value, list) and len(value) == len(kinds) for value in config.values())
    return [] if listed or all(kind == kinds[0] for kind in kinds) else kinds


def _check_vocabularies(readers: Sequence[Sequence[Reader]]) -> None:
    """The head is the last section's and the embedding the first's: both must be of one vocabulary."""
    first, last = readers[0][0], readers[-1][0]
    embedded, predicted = _rows(first, INPUT_EMBEDDING), _rows(last, HEAD)
    if embedded is not None and predicted is not None and embedded != predicted:
        reason = f"its head has {predicted} rows, and the embedding there {embedded}{VOCABULARY_HINT}"
        raise IncompatibleModels(model=last.label, other=first.label, reason=reason)


def _rows(reader: Reader, kind: re.Pattern[str]) -> int | None:
    """How many rows the first matrix of this kind has."""
    shapes = (at.info.shape for name, at in reader.layout.tensors.items() if kind.search(name))
    return next((shape[0] for shape in shapes if len(shape) == 2), None)


def _check_alike(layers: Sequence[Mapping[str, str]], members: Sequence[tuple[int, _Tower]], step: int) -> None:
    for layer, (first, tower) in zip(layers[1:], members[1:], strict=True):
        if differing := sorted(layer.keys() ^ layers[0].keys()):
            reason = (
                f"only one of layer {first + step} here and layer {members[0][0] + step} there has {differing[0]!r}"
            )
            raise IncompatibleModels(model=tower.label, other=members[0][1].label, reason=reason)
