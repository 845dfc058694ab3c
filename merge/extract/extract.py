"""Take a fine-tune apart: its task vector as a checkpoint, or the nearest LoRA of a rank."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from graftwork import __version__
from graftwork.adapters.algebra.lowrank import nearest
from graftwork.adapters.variants.lora import LoraAdapter, LoraFactors, save_lora
from graftwork.errors import IncompatibleModels, InvalidRequest, NonFiniteTensor
from graftwork.kernels.abs_sum import abs_sum
from graftwork.kernels.weighted_sum import weighted_sum
from graftwork.merge.extract.extraction import SLICE, Extraction, TensorPart, describe, plan_extraction
from graftwork.merge.models.sources import Finder, Origin, Source
from graftwork.merge.output.writer import OutputFolder, check_target, existing_parent
from graftwork.merge.plan.task_vector import REPORT_FILE
from graftwork.merge.slices.buffers import Buffers, HostArray, as_bytes
from graftwork.merge.slices.slices import slice_starts
from graftwork.progress import Progress, silent
from graftwork.registry.access.access import doer
from graftwork.registry.formats.safetensors import DTYPE_BYTES
from graftwork.registry.refs import Name, Ref
from graftwork.registry.registry import Registry
from graftwork.registry.storage.blobs import check_space, refuse_full
from graftwork.registry.transfer.importer import Also, import_source
from graftwork.registry.versions.version import Kind, Parent, Relation, Version
from graftwork.settings import Settings

SMALL_FILES = 1_000_000


@dataclass
class Report:
    """What was measured: squared norms of the differences, and what of them a LoRA keeps and leaves."""

    modules: dict[str, dict[str, Any]] = field(default_factory=dict)
    """For each layer of a LoRA its rank, the norm of its difference and the share of the square that is kept."""
    left: dict[str, float] = field(default_factory=dict)
    """The norm of the difference of each tensor that changed and is not part of a LoRA."""
    unchanged: list[str] = field(default_factory=list)
    total: float = 0.0
    kept: float = 0.0

    @property
    def energy(self) -> float:
        """The share of the whole task vector's squared norm that is kept."""
        return self.kept / self.total if self.total > 0 else 1.0

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"energy": self.energy, "modules": self.modules, "left": self.left, "unchanged": self.unchanged}


def extract(
    model: str,
    base: str,
    *,
    out: Path,
    settings: Settings,
    rank: int | None = None,
    dtype: str = "float32",
    strict: bool = False,
    seed: int = 0,
    registry: Registry | None = None,
    progress: Progress = silent,
) -> Report:
    """Write what `model` adds to `base` into the folder `out`, which appears whole or not at all.

    rank:   of a LoRA of the linear layers; None for the dense task vector of all tensors
    dtype:  of a dense task vector: float32, float16, bfloat16 or model. In float32 the sum with the base, rounded to
            the model's dtype, is the model again: bit for bit for 16-bit models, within one ulp for float32 ones
    strict: refuse a LoRA where a tensor changed that it cannot hold; else the report names these

    Raises what `plan_extraction` raises, OutputExists, StorageFull, NonFiniteTensor, InputChanged, IncompatibleModels
    for integer tensors that differ, and whatever `progress` raises.
    """
    finder = Finder(registry)
    return _extract(
        finder.find(model), finder.find(base), out, settings, rank, dtype, progress, strict=strict, seed=seed
    )


def extract_version(
    model: str,
    base: str,
    name: Name,
    *,
    registry: Registry,
    settings: Settings,
    rank: int | None = None,
    dtype: str = "float32",
    strict: bool = False,
    seed: int = 0,
    aliases: Sequence[str] = (),
    progress: Progress = silent,
    paths: bool = True,
    also: Also | None = None,
    parents: Sequence[Parent] = (),
    metadata: Mapping[str, object] | None = None,
) -> tuple[Version, Report]:
    """Register what `model` adds to `base`: a task_vector, or an adapter where there is a `rank`; see `extract`.

    The base must be a version of the registry; where the model is one, it is a parent. `paths`, `also`, `parents` and
    `metadata`: see `graftwork.merge.run.publish.publish`.
    """
    finder = Finder(registry, paths=paths)
    ours, theirs = finder.find(model), finder.find(base)
    if theirs.version is None:
        reason = f"{base!r} is not a version of the registry; import it, or write to a folder"
        raise InvalidRequest(field="base", reason=reason)
    kind = Kind.TASK_VECTOR if rank is None else Kind.ADAPTER
    registry.catalog.check_kind(name, kind)
    with registry.blobs.scratch() as scratch:
        out = scratch / "extracted"
        report = _extract(ours, theirs, out, settings, rank, dtype, progress, strict=strict, seed=seed)
        inputs = [Parent(theirs.version.digest, Relation.MERGE_BASE, -1.0, 0)]
        if ours.version is not None:
            inputs.append(Parent(ours.version.digest, Relation.MERGE_INPUT, 1.0, 1))
        told = {"extract": _origin_of(ours, theirs, rank, dtype) | {"energy": report.energy, "seed": seed}}
        version = import_source(
            registry,
            out,
            name,
            kind=kind,
            base=Ref.parse(theirs.version.ref),
            aliases=aliases,
            metadata=told | dict(metadata or {}),
            parents=[*inputs, *parents],
            actor=doer("extract"),
            also=also,
            progress=progress,
            move=True,
        )
    return version, report


def _extract(
    model: Origin,
    base: Origin,
    out: Path,
    settings: Settings,
    rank: int | None,
    dtype: str,
    progress: Progress,
    *,
    strict: bool,
    seed: int,
) -> Report:
    check_target(out)
    found = plan_extraction(model, base, rank=rank, dtype=dtype, seed=seed, settings=settings)
    try:
        check_space(existing_parent(out), found.output_bytes + SMALL_FILES)
        with OutputFolder(out) as folder:
            run = _Run(found, folder, progress)
            run.low_rank(strict=strict) if rank is not None else run.dense()
            for source in (found.model, found.base):
                source.check_unchanged()
            said = _origin_of(model, base, rank, dtype) | run.report.as_json()
            folder.write_file(REPORT_FILE, json.dumps(said, indent=2).encode() + b"\n")
            folder.write_file("README.md", _card(model, base, found, run.report).encode())
        return run.report
    finally:
        found.close()


@dataclass
class _Run:
    found: Extraction
    output: OutputFolder
    progress: Progress
    report: Report = field(default_factory=Report)
    buffers: Buffers = field(default_factory=Buffers)
    done: int = 0

    def dense(self) -> None:
        """The difference of every tensor, slice by slice at its place in the files."""
        self.output.allocate(self.found.shards)
        config = self.found.model.layout.root / "config.json"
        if config.is_file():
            self.output.write_file("config.json", config.read_bytes())
        for part in self.found.parts:
            stored = self.found.stored_dtype(part)
            for start in slice_starts(part.numel, SLICE):
                if part.role == "copied":
                    piece = self._same(part, start)
                else:
                    piece = self.buffers.array("out", stored, min(SLICE, part.numel - start))
                    self._subtract(part, start, piece)
                self.output.write(part.name, start * DTYPE_BYTES[stored], as_bytes(piece))
                self._advance(part, piece.size)

    def low_rank(self, *, strict: bool) -> None:
        """The nearest factors of every linear layer; what else changed is measured."""
        factors: dict[str, LoraFactors] = {}
        for part in self.found.parts:
            if part.role == "copied":
                for start in slice_starts(part.numel, SLICE):
                    self._same(part, start)
            elif part.role == "left":
                self._measure(part, strict=strict)
            else:
                self._approximate(part, factors)
            self._advance(part, part.numel)
        if not factors:
            reason = f"no linear layer of {self.found.model.label} differs from {self.found.base.label}"
            raise InvalidRequest(field="rank", reason=reason)
        with refuse_full(self.output.out.parent):
            save_lora(
                LoraAdapter(self.output.out.name, factors),
                self.output.partial,
                base_model=self.found.base.label,
                fan_in_fan_out=self.found.transposed,
                task_type=_task_type(self.found.model),
            )

    def _approximate(self, part: TensorPart, factors: dict[str, LoraFactors]) -> None:
        matrix = np.empty(part.numel, np.float32)
        for start in slice_starts(part.numel, SLICE):
            self._subtract(part, start, matrix[start : start + SLICE])
        shaped = matrix.reshape(part.model.info.shape)
        square = float(sum(float(np.dot(row, row)) for row in (line.astype(np.float64) for line in shaped)))
        if square == 0:
            self.report.unchanged.append(part.name)
            return
        near = nearest(shaped.T if self.found.transposed else shaped, part.rank, seed=self.found.seed, name=part.module)
        factors[part.module] = near.factors
        self.report.modules[part.module] = describe(part) | {"norm": square**0.5, "energy": near.energy}
        self.report.total += square
        self.report.kept += square * near.energy

    def _measure(self, part: TensorPart, *, strict: bool) -> None:
        square = 0.0
        for start in slice_starts(part.numel, SLICE):
            piece = self.buffers.array("out", "F32", min(SLICE, part.numel - start))
            self._subtract(part, start, piece)
            square += float(np.square(piece, dtype=np.float64).sum())
        if square == 0:
            self.report.unchanged.append(part.name)
            return
        if strict:
            reason = f"the tensor {part.name!r} {list(part.model.info.shape)} changed, and a LoRA cannot hold it"
            raise IncompatibleModels(model=self.found.model.label, other=self.found.base.label, reason=reason)
        self.report.left[part.name] = square**0.5
        self.report.total += square

    def _subtract(self, part: TensorPart, start: int, out: HostArray) -> None:
        sides = [self._values(source, part, start) for source in (self.found.model, self.found.base)]
        weighted_sum(out, sides, (1.0, -1.0))
        if not np.isfinite(abs_sum(out)).all():
            for source, values in zip((self.found.model, self.found.base), sides, strict=True):
                if count := int(np.count_nonzero(~np.isfinite(values.astype(np.float32)))):
                    raise NonFiniteTensor(tensor=part.name, path=source.label, count=count)
            count = int(np.count_nonzero(~np.isfinite(out.astype(np.float32))))
            raise NonFiniteTensor(tensor=part.name, path="the task vector", count=count)

    def _same(self, part: TensorPart, start: int) -> HostArray:
        """Integers, which must be those of the base, unless the tensor is a single counter."""
        ours, theirs = (self._values(source, part, start) for source in (self.found.model, self.found.base))
        if part.numel > 1 and not np.array_equal(as_bytes(ours), as_bytes(theirs)):
            reason = f"the tensor {part.name!r} is {part.model.info.dtype}, which has no difference, and it changed"
            raise IncompatibleModels(model=self.found.model.label, other=self.found.base.label, reason=reason)
        return ours

    def _values(self, source: Source, part: TensorPart, start: int) -> HostArray:
        mine = source is self.found.model
        tensor = part.model if mine else part.base
        values = self.buffers.array("model" if mine else "base", tensor.info.dtype, min(SLICE, part.numel - start))
        source.read(tensor, start * DTYPE_BYTES[tensor.info.dtype], as_bytes(values))
        return values

    def _advance(self, part: TensorPart, elements: int) -> None:
        self.done += elements
        self.progress("extract", self.done, sum(other.numel for other in self.found.parts))


def _origin_of(model: Origin, base: Origin, rank: int | None, dtype: str) -> dict[str, Any]:
    """Where a task vector comes from, and how it and its base are added up again."""
    said: dict[str, Any] = {
        "model": model.public_name,
        "base": base.public_name,
        "model_digest": model.version.digest if model.version is not None else None,
        "base_digest": base.version.digest if base.version is not None else None,
        "code_version": __version__,
    }
    return said | ({"kind": "task_vector", "dtype": dtype} if rank is None else {"kind": "adapter", "rank": rank})


def _task_type(source: Source) -> str | None:
    architectures = (source.layout.config or {}).get("architectures")
    named = str(architectures[0]) if isinstance(architectures, list) and architectures else ""
    return "CAUSAL_LM" if named.endswith(("ForCausalLM", "LMHeadModel")) else None


def _card(model: Origin, base: Origin, found: Extraction, report: Report) -> str:
    """A README.md that the Hub understands."""
    what = "task vector" if found.rank is None else f"LoRA of rank {found.rank}"
    lines = [
        "---",
        f"base_model: {json.dumps(base.public_name)}",
        *([] if found.rank is None else ["library_name: peft"]),
        "tags: [graftwork, extract]",
        "---",
        f"# The {what} of {model.public_name}",
        "",
        f"What `{model.public_name}` adds to `{base.public_name}`, taken by Graftwork {__version__}.",
    ]
    if found.rank is None:
        lines.append("These are differences: added to the base, and not by themselves, they are a model.")
    else:
        lines.append(f"It keeps {report.energy:.2%} of the squared norm of the change; see {REPORT_FILE}.")
    if report.left:
        lines += ["", "Not part of it, though they changed:", "", *(f"- `{name}`" for name in report.left)]
    return "\n".join([*lines, ""])
