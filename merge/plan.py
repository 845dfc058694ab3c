"""What a merge will do, found from headers and configurations alone; everything that is wrong is said here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graftwork.errors import InvalidRecipe, InvalidSetting
from graftwork.merge.adapter_plan import AdapterPlan, plan_adapters
from graftwork.merge.binding import Binding
from graftwork.merge.compatibility import FLOATS, check_same_model
from graftwork.merge.layers import Block, depth_of, find_blocks
from graftwork.merge.method import Method, find_method
from graftwork.merge.modifiers.lines import Lines, find_lines
from graftwork.merge.recipe import DTYPES, ModelEntry, Recipe
from graftwork.merge.slices import GRAIN
from graftwork.merge.sources import Finder, Origin, Source, open_source
from graftwork.merge.statistics import Statistic
from graftwork.merge.writer import Shard, check_target, existing_parent, split_into_shards, tensor_bytes
from graftwork.registry.blobs import check_space
from graftwork.registry.formats.checkpoint import Located
from graftwork.registry.formats.safetensors import DTYPE_BYTES
from graftwork.settings import Settings

if TYPE_CHECKING:
    from graftwork.registry.registry import Registry

LONGEST_SLICE = 16 * GRAIN
"""Slices of a million elements stay in the processor's cache between two kernels."""
SMALL_FILES = 64_000_000
"""Bytes set aside on disk for the tokenizer, the configuration and the card."""


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


@dataclass(frozen=True, slots=True)
class Plan:
    """A merge of whole models. `close` the sources, or execute it, when it is no longer needed."""

    recipe: Recipe
    method: Method
    sources: tuple[Source, ...]
    base: Origin | None
    models: tuple[Origin, ...]
    entries: tuple[ModelEntry, ...]
    donor: Origin
    tokenizer: Origin
    tensors: tuple[TensorPlan, ...]
    shards: tuple[Shard, ...]
    lines: Lines | None
    slice_elements: int
    threads: int
    element_bytes: int

    @property
    def output_bytes(self) -> int:
        """Bytes of all tensors of the output."""
        return sum(tensor_bytes(tensor.dtype, tensor.shape) for tensor in self.tensors)

    @property
    def input_bytes(self) -> int:
        """Bytes of all tensors that are read, counted once."""
        return sum(operand.tensor.info.nbytes for tensor in self.tensors for operand in tensor.operands)

    @property
    def buffer_bytes(self) -> int:
        """The most that slices take in memory at one time."""
        return self.threads * self.slice_elements * self.element_bytes

    def summary(self) -> dict[str, object]:
        """What the command line prints: plain values by name."""
        merged = [tensor for tensor in self.tensors if tensor.method is not None]
        return {
            "method": self.method.name,
            "space": self.method.space,
            "base": self.base.label if self.base else None,
            "models": [origin.label for origin in self.models],
            "tensors_merged": len(merged),
            "tensors_copied": len(self.tensors) - len(merged),
            "parameters": sum(tensor.numel for tensor in merged),
            "dtypes": sorted({tensor.dtype for tensor in self.tensors}),
            "files": [shard.file for shard in self.shards],
            "input_bytes": self.input_bytes,
            "output_bytes": self.output_bytes,
            "buffer_bytes": self.buffer_bytes,
            "slice_elements": self.slice_elements,
            "threads": self.threads,
            "tokenizer": self.tokenizer.label,
        }

    def close(self) -> None:
        """Close the sources' files."""
        for source in self.sources:
            source.close()


def plan(
    recipe: Recipe,
    *,
    settings: Settings,
    registry: Registry | None = None,
    out: Path | None = None,
    paths: bool = True,
) -> Plan | AdapterPlan:
    """Check everything a merge needs and lay it out, without reading a weight or writing a byte.

    out:   the folder the merge will write, where it is known: its disk and its emptiness are checked too
    paths: whether the recipe may name folders of this machine

    Raises InvalidRecipe and its kin, SourceNotFound, InvalidContent and its kin, OutputExists, StorageFull,
    InvalidSetting for a memory limit that holds no slice.
    """
    method = find_method(recipe.merge_method)
    lines = find_lines(recipe)
    finder = Finder(registry, paths)
    if out is not None:
        check_target(out)
    planned: Plan | AdapterPlan
    if method.space == "adapter":
        planned = plan_adapters(recipe, method, lines, finder)
    else:
        planned = _plan_models(recipe, method, lines, settings, finder)
    if out is not None:
        check_space(existing_parent(out), planned.output_bytes + SMALL_FILES)
    return planned


def _plan_models(recipe: Recipe, method: Method, lines: Lines | None, settings: Settings, finder: Finder) -> Plan:
    base, entries, origins = _find_models(recipe, method, finder)
    if lines is not None and method.space != "delta":
        raise InvalidRecipe(where="modifiers", reason=f"lines scales a merged delta, and {method.name} has none")
    binding = Binding(method, recipe, entries)
    first = [base] if base is not None and method.needs_base else []
    sources = tuple(open_source(origin) for origin in (*first, *origins))
    tensors = _lay_out(recipe, binding, sources, has_base=bool(first))
    _check_model_statistics(tensors)
    described = [(tensor.name, tensor.dtype, tensor.shape) for tensor in tensors]
    element_bytes = max((_element_bytes(tensor, lines) for tensor in tensors), default=1)
    threads, length = _share_memory(settings, element_bytes)
    donor = base or origins[0]
    return Plan(
        recipe=recipe,
        method=method,
        sources=sources,
        base=base,
        models=origins,
        entries=entries,
        donor=donor,
        tokenizer=_find_tokenizer(recipe, base, donor, finder),
        tensors=tensors,
        shards=split_into_shards(described, recipe.output.shard_bytes),
        lines=lines,
        slice_elements=length,
        threads=threads,
        element_bytes=element_bytes,
    )


def _find_models(
    recipe: Recipe, method: Method, finder: Finder
) -> tuple[Origin | None, tuple[ModelEntry, ...], tuple[Origin, ...]]:
    """The base and the models; a base listed among the models of a method that has one is no input, as in mergekit."""
    base = finder.find(recipe.base_model) if recipe.base_model is not None else None
    if base is None and method.needs_base:
        raise InvalidRecipe(where="base_model", reason=f"{method.name} needs a base_model")
    found = [(entry, finder.find(entry.model)) for entry in recipe.models]
    if base is not None and method.needs_base:
        found = [(entry, origin) for entry, origin in found if origin.root.resolve() != base.root.resolve()]
    least, most = method.models
    if len(found) < least or (most is not None and len(found) > most):
        expected = f"{least}" if most == least else f"at least {least}" if most is None else f"{least} to {most}"
        beside = " besides the base" if method.needs_base else ""
        reason = f"{method.name} takes {expected} model{'' if expected == '1' else 's'}{beside}; there are {len(found)}"
        raise InvalidRecipe(where="models", reason=reason)
    return base, tuple(entry for entry, _ in found), tuple(origin for _, origin in found)


def _lay_out(recipe: Recipe, binding: Binding, sources: Sequence[Source], *, has_base: bool) -> tuple[TensorPlan, ...]:
    reference = sources[0]
    for other in sources[1:]:
        check_same_model(reference, other)
    names = list(reference.layout.tensors)
    blocks = find_blocks(names)
    out_dtype = recipe.out_dtype or recipe.dtype
    return tuple(
        _plan_tensor(name, DTYPES[out_dtype] if out_dtype else None, binding, sources, blocks, has_base=has_base)
        for name in names
    )


def _plan_tensor(
    name: str,
    out_dtype: str | None,
    binding: Binding,
    sources: Sequence[Source],
    blocks: Mapping[str, Block],
    *,
    has_base: bool,
) -> TensorPlan:
    operands = tuple(Operand(position, source.layout.tensors[name]) for position, source in enumerate(sources))
    info = operands[0].tensor.info
    if info.dtype not in FLOATS:
        return TensorPlan(name, info.dtype, info.shape, operands[0], operands[1:], None, blocks.get(name))
    return TensorPlan(
        name=name,
        dtype=out_dtype or info.dtype,
        shape=info.shape,
        base=operands[0] if has_base else None,
        inputs=operands[1:] if has_base else operands,
        method=binding.at(name, depth_of(name, blocks)),
        block=blocks.get(name),
    )


def _check_model_statistics(tensors: Sequence[TensorPlan]) -> None:
    """A statistic of the whole model needs the same parameters everywhere."""
    wanted: dict[Statistic[Any], str] = {}
    for tensor in tensors:
        statistic = tensor.statistic
        if statistic is not None and statistic.scope == "model":
            wanted.setdefault(statistic, tensor.name)
    if len(wanted) > 1:
        first, second, *_ = wanted.values()
        reason = f"they differ between {first} and {second}, and this variant trims the whole model at once"
        raise InvalidRecipe(where="parameters", reason=reason)


def _element_bytes(tensor: TensorPlan, lines: Lines | None) -> int:
    """Buffers for one element: every operand as stored, the output, and for measuring the merged delta its float32s."""
    if tensor.method is None:
        return 2 * DTYPE_BYTES[tensor.dtype]
    stored = sum(DTYPE_BYTES[operand.dtype] for operand in tensor.operands) + DTYPE_BYTES[tensor.dtype]
    deltas = 4 * (len(tensor.inputs) + 2) if lines is not None and lines.alpha is None else 0
    return stored + deltas


def _share_memory(settings: Settings, element_bytes: int) -> tuple[int, int]:
    """How many threads, and how long a slice of each, fit into the memory limit."""
    threads = max(1, min(settings.threads, settings.memory // (element_bytes * GRAIN)))
    grains = settings.memory // (threads * element_bytes * GRAIN)
    if grains == 0:
        least = element_bytes * GRAIN
        raise InvalidSetting(name="memory", value=settings.memory, expected=f"at least {least} bytes for this merge")
    return threads, min(grains * GRAIN, LONGEST_SLICE)


def _find_tokenizer(recipe: Recipe, base: Origin | None, donor: Origin, finder: Finder) -> Origin:
    source = recipe.tokenizer_source
    if source is None:
        return donor
    if source == "base":
        if base is None:
            raise InvalidRecipe(where="tokenizer_source", reason="it is base, and there is no base_model")
        return base
    if source == "union":
        raise InvalidRecipe(where="tokenizer_source", reason="union is not supported yet; name base or a model")
    return finder.find(source)
