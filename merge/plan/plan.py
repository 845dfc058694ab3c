"""What a merge will do, found from headers and configurations alone; everything that is wrong is said here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graftwork.errors import InvalidRecipe, InvalidSetting
from graftwork.merge import device
from graftwork.merge.method import Method, find_method, scratch_bytes
from graftwork.merge.models.readers import Reader, files_beneath
from graftwork.merge.models.sources import Finder, Origin
from graftwork.merge.models.tokens.chat_template import find_template
from graftwork.merge.models.tokens.tokenizer import TokenizerPlan, plan_tokenizer
from graftwork.merge.modifiers.lines import Lines, find_lines
from graftwork.merge.output.shards import Shard, split_into_shards, tensor_bytes
from graftwork.merge.output.writer import check_room, check_target
from graftwork.merge.plan.inputs import Inputs, find_inputs
from graftwork.merge.plan.local_files import refuse_local_files
from graftwork.merge.plan.notes import tell, telling_once
from graftwork.merge.plan.task_vector import with_task_vectors
from graftwork.merge.plan.tensor_plan import Operand, TensorPlan, open_readers, plan_tensors, read_by_section
from graftwork.merge.recipe.recipe import ModelEntry, Recipe
from graftwork.merge.slices.slices import GRAIN
from graftwork.merge.statistics.passes import Statistic
from graftwork.registry.formats.safetensors import DTYPE_BYTES
from graftwork.settings import Settings

if TYPE_CHECKING:
    from graftwork.merge.plan.adapter_plan import AdapterPlan
    from graftwork.registry.registry import Registry

__all__ = ["Operand", "Plan", "TensorPlan", "plan"]

LONGEST_SLICE = 8 * GRAIN
"""Slices of half a million elements stay in the processor's cache between two kernels, and are few enough calls."""
SMALL_FILES = 64_000_000
"""Bytes set aside on disk for the tokenizer, the configuration and the card."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A merge of whole models. `close` the sources, or execute it, when it is no longer needed."""

    recipe: Recipe
    method: Method
    sources: tuple[Reader, ...]
    base: Origin | None
    models: tuple[Origin, ...]
    entries: tuple[ModelEntry, ...]
    donor: Origin
    tokenizer: TokenizerPlan
    chat_template: str | None
    tensors: tuple[TensorPlan, ...]
    shards: tuple[Shard, ...]
    lines: Lines | None
    slice_elements: int
    threads: int
    element_bytes: int
    memory: int
    settings: Settings
    finder: Finder

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
    steps: Mapping[str, Path] | None = None,
) -> Plan | AdapterPlan:
    """Check everything a merge needs and lay it out, without reading a weight or writing a byte of the output.

    out:   the folder the merge will write, where it is known: its disk and its emptiness are checked too
    paths: whether the recipe may name folders of this machine
    steps: the folders of the results of the recipe's steps; without them the steps are planned too, and the plan is
           for looking at

    Raises InvalidRecipe and its kin, SourceNotFound, InvalidContent and its kin, OutputExists, StorageFull,
    InvalidSetting for a memory limit that holds no slice.
    """
    if recipe.steps and steps is None:
        from graftwork.merge.run.steps import rehearsed

        with telling_once(), rehearsed(recipe, settings=settings, registry=registry, paths=paths) as found:
            return plan(recipe, settings=settings, registry=registry, out=out, paths=paths, steps=found)
    method = find_method(recipe.merge_method)
    lines = find_lines(recipe)
    finder = Finder(registry, paths, steps or {})
    if not paths:
        refuse_local_files(recipe, method)
    if out is not None:
        check_target(out)
    planned: Plan | AdapterPlan
    if _of_adapters(recipe, method, finder):
        from graftwork.merge.plan.adapter_plan import plan_adapters

        _check_is_for_adapters(recipe)
        planned = plan_adapters(recipe, method, lines, settings, finder)
    else:
        planned = _plan_models(recipe, method, lines, settings, finder)
    if out is not None:
        check_room(out, planned.output_bytes + SMALL_FILES)
    return planned


def _of_adapters(recipe: Recipe, method: Method, finder: Finder) -> bool:
    """Whether the recipe merges adapters: its method is for nothing else, or all its models are adapters."""
    if method.space == "adapter":
        return True
    return bool(recipe.models) and all(finder.find(entry.model).is_adapter for entry in recipe.models)


def _check_is_for_adapters(recipe: Recipe) -> None:
    for key in ("slices", "tokenizer", "chat_template"):
        if getattr(recipe, key):
            raise InvalidRecipe(where=key, reason="it is for merges of whole models, and these are adapters")


def _plan_models(recipe: Recipe, method: Method, lines: Lines | None, settings: Settings, finder: Finder) -> Plan:
    if recipe.output.rank is not None:
        raise InvalidRecipe(where="output.rank", reason="it is for merges of adapters, and these are whole models")
    inputs = find_inputs(recipe, method, finder)
    if lines is not None and method.space != "delta":
        raise InvalidRecipe(where="modifiers", reason=f"lines scales a merged delta, and {method.name} has none")
    readers = with_task_vectors(open_readers(inputs.origins), inputs)
    if getattr(method.kind, "matched", False):
        from graftwork.merge.plan.rearranged import matched_readers

        readers = matched_readers(readers, inputs, recipe, settings)
    donor = inputs.base or inputs.models[0][1]
    tokenizer = plan_tokenizer(recipe, donor, readers, finder)
    sources, roles = read_by_section(inputs, readers, tokenizer, finder)
    tensors = plan_tensors(recipe, inputs, sources, roles)
    _check_model_statistics(tensors)
    tell(recipe, next((reader for reader in readers if reader.origin == donor), None), tensors)
    described = [(tensor.name, tensor.dtype, tensor.shape) for tensor in tensors]
    element_bytes = max((_element_bytes(tensor, lines, sources) for tensor in tensors), default=1)
    longest = LONGEST_SLICE
    if settings.device != "cpu":
        from graftwork.merge.device import accelerator

        accelerator.check_device(settings.device)
        element_bytes, longest = device.SLOTS * element_bytes, device.LONGEST_SLICE
    threads, length = _share_memory(settings, element_bytes, longest)
    return Plan(
        recipe=recipe,
        method=method,
        sources=sources,
        base=inputs.base,
        models=tuple(origin for _, origin in inputs.models),
        entries=tuple(entry for entry, _ in inputs.models),
        donor=donor,
        tokenizer=tokenizer,
        chat_template=_find_template(recipe, inputs, finder),
        tensors=tensors,
        shards=split_into_shards(described, recipe.output.shard_bytes),
        lines=lines,
        memory=settings.memory,
        slice_elements=length,
        threads=threads,
        element_bytes=element_bytes,
        settings=settings,
        finder=finder,
    )


def _find_template(recipe: Recipe, inputs: Inputs, finder: Finder) -> str | None:
    if recipe.chat_template is None:
        return None
    return find_template(recipe.chat_template, inputs.origins, finder)


def _check_model_statistics(tensors: Sequence[TensorPlan]) -> None:
    """A statistic of the whole model needs the same parameters everywhere, and the same models."""
    wanted: dict[tuple[Statistic[Any], int], str] = {}
    for tensor in tensors:
        statistic = tensor.statistic
        if statistic is not None and statistic.scope == "model":
            wanted.setdefault((statistic, len(tensor.inputs)), tensor.name)
    if len(wanted) > 1:
        first, second, *_ = wanted.values()
        reason = f"they differ between {first} and {second}, and this variant trims the whole model at once"
        raise InvalidRecipe(where="parameters", reason=reason)


def _element_bytes(tensor: TensorPlan, lines: Lines | None, sources: Sequence[Reader]) -> int:
    """Buffers for one element: every operand as stored, the output, what the method and its statistic compute in, and
    for measuring the merged delta its float32s.

    A view computes in buffers of its own: what it read, and what it adds.
    """
    if tensor.method is None:
        return 2 * DTYPE_BYTES[tensor.dtype]
    stored = sum(DTYPE_BYTES[operand.dtype] for operand in tensor.operands) + DTYPE_BYTES[tensor.dtype]
    computed = sum(8 for operand in tensor.operands if not files_beneath(sources[operand.source]))
    deltas = 4 * (len(tensor.inputs) + 2) if lines is not None and lines.alpha is None else 0
    scratch = max(scratch_bytes(part, len(tensor.inputs)) for part in (tensor.method, tensor.statistic))
    return stored + computed + deltas + scratch


def _share_memory(settings: Settings, element_bytes: int, longest: int) -> tuple[int, int]:
    """How many threads, and how long a slice of each, fit into the memory limit."""
    threads = max(1, min(settings.threads, settings.memory // (element_bytes * GRAIN)))
    grains = settings.memory // (threads * element_bytes * GRAIN)
    if grains == 0:
        least = element_bytes * GRAIN
        raise InvalidSetting(name="memory", value=settings.memory, expected=f"at least {least} bytes for this merge")
    return threads, min(grains * GRAIN, longest)
