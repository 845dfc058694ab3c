"""One tensor of the output: what it is made from, and how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graftwork.merge.models.compatibility import FLOATS, check_precision, check_same_model, check_same_tensor, promoted
from graftwork.merge.models.layers import HEAD, INPUT_EMBEDDING, Block
from graftwork.merge.models.readers import Reader, stored_dtype
from graftwork.merge.models.sources import Finder, Origin, Source, open_source
from graftwork.merge.models.spelling import agree
from graftwork.merge.models.tokens.tokenizer import TokenizerPlan, align_readers
from graftwork.merge.models.untied import untie
from graftwork.merge.plan.inputs import Inputs
from graftwork.merge.plan.stack import Slot, lay_out
from graftwork.merge.recipe.recipe import DTYPES, Recipe
from graftwork.merge.statistics.passes import Statistic
from graftwork.registry.formats.checkpoint import Located


@dataclass(frozen=True, slots=True)
class Operand:
    """One tensor of one source, by its position among the plan's sources."""

    source: int
    tensor: Located

    @property
    def dtype(self) -> str:
        """The dtype in the file, as safetensors names it."""
        return self.tensor.info.dtype


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """One tensor of the output. Where the method is None, the first operand is copied and the others must be equal."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    base: Operand | None
    inputs: tuple[Operand, ...]
    method: Any
    block: Block | None
    stream: str
    """Whose random numbers it draws: its own name, or that of the embedding which a head is tied to."""

    @property
    def numel(self) -> int:
        """Number of elements."""
        return self.operands[0].tensor.info.numel

    @property
    def operands(self) -> tuple[Operand, ...]:
        """The base, where there is one, and the inputs."""
        return self.inputs if self.base is None else (self.base, *self.inputs)

    @property
    def statistic(self) -> Statistic[Any] | None:
        """What the method must know before its first slice."""
        return None if self.method is None else self.method.statistic()


def open_readers(origins: Sequence[Origin]) -> list[Reader]:
    """The readers of models, which call their tensors as the first does, with their adapters merged in.

    Raises as opening either does.
    """
    sources = [open_source(origin) for origin in origins]
    agree(sources)
    untie(sources)
    readers = [_with_adapter(source) for source in sources]
    for reader in readers:
        check_precision(reader)
    return readers


def _with_adapter(source: Source) -> Reader:
    if source.origin.adapter is None:
        return source
    from graftwork.merge.models.adapted import adapt

    return adapt(source, source.origin)


def read_by_section(
    inputs: Inputs, readers: Sequence[Reader], tokenizer: TokenizerPlan, finder: Finder
) -> tuple[tuple[Reader, ...], tuple[tuple[int, ...], ...]]:
    """What is read from, and the places in it of each section's operands: rows of tokens are aligned by section."""
    by_identity = {reader.origin.identity: reader for reader in readers}
    sources: list[Reader] = []
    roles = []
    for section in inputs.sections:
        own = list(dict.fromkeys(operand.origin.identity for operand in section.operands))
        aligned = align_readers(tokenizer, [by_identity[key] for key in own], inputs.base, finder)
        places = {}
        for key, reader in zip(own, aligned, strict=True):
            known = next((place for place, source in enumerate(sources) if source is reader), None)
            places[key] = len(sources) if known is None else known
            if known is None:
                sources.append(reader)
        roles.append(tuple(places[operand.origin.identity] for operand in section.operands))
    return tuple(sources), tuple(roles)


def plan_tensors(
    recipe: Recipe, inputs: Inputs, sources: Sequence[Reader], roles: Sequence[Sequence[int]]
) -> tuple[TensorPlan, ...]:
    """Every tensor of the output, in order. Raises IncompatibleModels and InvalidRecipe naming what does not fit."""
    for other in sources[1:]:
        check_same_model(sources[0], other, depth=not recipe.slices)
    out_dtype = recipe.out_dtype or recipe.dtype
    slots = lay_out(inputs, [[sources[place] for place in part] for part in roles])
    embeddings = _embeddings_of_tied_heads(slots, sources[0])
    return tuple(
        _plan_tensor(
            slot,
            embeddings.get(slot.name, slot),
            DTYPES[out_dtype] if out_dtype else None,
            inputs,
            sources,
            roles[slot.section],
        )
        for slot in slots
    )


def _embeddings_of_tied_heads(slots: Sequence[Slot], reader: Reader) -> Mapping[str, Slot]:
    """For a head that is stored although it is the embedding: the embedding's slot, so that both stay equal."""
    if (reader.layout.config or {}).get("tie_word_embeddings") is not True:
        return {}
    heads = [slot for slot in slots if HEAD.search(slot.name)]
    inputs = [slot for slot in slots if INPUT_EMBEDDING.search(slot.name)]
    if len(heads) != 1 or len(inputs) != 1 or heads[0].section != inputs[0].section:
        return {}
    shapes = [reader.layout.tensors[slot.names[0]].info.shape for slot in (*heads, *inputs)]
    return {heads[0].name: inputs[0]} if shapes[0] == shapes[1] else {}


def _plan_tensor(
    slot: Slot,
    alike: Slot,
    out_dtype: str | None,
    inputs: Inputs,
    sources: Sequence[Reader],
    places: Sequence[int],
) -> TensorPlan:
    """The plan of a slot, with the parameters and the random numbers of the slot `alike`."""
    section = inputs.sections[slot.section]
    members = [(sources[place], name) for place, name in zip(places, slot.names, strict=True)]
    for reader, name in members[1:]:
        check_same_tensor(*members[0], reader, name)
    operands = tuple(
        Operand(place, reader.layout.tensors[name]) for place, (reader, name) in zip(places, members, strict=True)
    )
    info = operands[0].tensor.info
    if info.dtype not in FLOATS:
        return TensorPlan(slot.name, info.dtype, info.shape, operands[0], operands[1:], None, slot.block, slot.name)
    named = alike.names if section.base is None else alike.names[1:]
    return TensorPlan(
        name=slot.name,
        dtype=out_dtype or promoted(stored_dtype(reader, name) for reader, name in members),
        shape=info.shape,
        base=operands[0] if section.base is not None else None,
        inputs=operands if section.base is None else operands[1:],
        method=section.binding.at(alike.name, alike.depth, named),
        block=slot.block,
        stream=alike.name,
    )
