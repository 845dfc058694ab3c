"""A task vector as a model: base + delta, computed in float32 for the elements that are read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from graftwork.errors import IncompatibleModels, InvalidRecipe
from graftwork.kernels.dtypes import numpy_dtype
from graftwork.merge.models.compatibility import FLOATS, check_same_model
from graftwork.merge.models.readers import Reader
from graftwork.merge.models.sources import Origin, Stamp
from graftwork.merge.plan.inputs import Inputs
from graftwork.merge.plan.tensor_plan import open_readers
from graftwork.registry.formats.checkpoint import CheckpointLayout, Located
from graftwork.registry.formats.safetensors import DTYPE_BYTES

REPORT_FILE = "extraction.json"
"""What a task vector or an extracted LoRA says of itself."""


@dataclass(slots=True)
class SummedModel:
    """A reader of a task vector whose floating tensors have the base's added, float32(base) + float32(delta)."""

    inner: Reader
    """The base."""
    delta: Reader
    layout: CheckpointLayout

    @property
    def origin(self) -> Origin:
        """The task vector."""
        return self.delta.origin

    @property
    def label(self) -> str:
        """What the recipe calls the task vector."""
        return self.delta.label

    @property
    def stamps(self) -> Mapping[str, Stamp]:
        """Those of both; files of the base may have the same names."""
        return {**{f"base/{name}": stamp for name, stamp in self.inner.stamps.items()}, **self.delta.stamps}

    def read(self, tensor: Located, start: int, into: memoryview) -> None:
        """Fill `into` from the tensor's byte `start` on."""
        name = tensor.info.name
        stored = self.delta.layout.tensors[name]
        if stored.info.dtype not in FLOATS:
            self.delta.read(stored, start, into)
            return
        out = np.frombuffer(into, np.float32)
        sides = []
        for reader in (self.inner, self.delta):
            located = reader.layout.tensors[name]
            size = DTYPE_BYTES[located.info.dtype]
            values = np.empty(out.size, numpy_dtype(located.info.dtype))
            reader.read(located, start // out.itemsize * size, values.view(np.uint8).data)
            sides.append(values.astype(np.float32))
        np.add(sides[0], sides[1], out=out)

    def check_unchanged(self) -> None:
        """Raise InputChanged if a file of either changed."""
        self.inner.check_unchanged()
        self.delta.check_unchanged()

    def close(self) -> None:
        """Close both."""
        self.delta.close()
        self.inner.close()


def task_vector_of(origin: Origin) -> Mapping[str, Any] | None:
    """What was said of a dense task vector when it was taken; None for whatever is no task vector."""
    file = origin.root / REPORT_FILE
    if not file.is_file():
        return None
    said = json.loads(file.read_text(encoding="utf-8"))
    return said if isinstance(said, dict) and said.get("kind") == "task_vector" else None


def with_task_vectors(readers: Sequence[Reader], inputs: Inputs) -> list[Reader]:
    """The readers, with the base added to those that are task vectors.

    Raises InvalidRecipe where there is no base, IncompatibleModels where it is not the one the task vector is from.
    """
    if all(task_vector_of(reader.origin) is None for reader in readers):
        return list(readers)
    base = inputs.base
    if base is None:
        label = next(reader.label for reader in readers if task_vector_of(reader.origin) is not None)
        raise InvalidRecipe(where="base_model", reason=f"{label} is a task vector, which needs the base it is from")
    known = next((reader for reader in readers if reader.origin.identity == base.identity), None)
    known = known or open_readers([base])[0]
    return [reader if task_vector_of(reader.origin) is None else _summed(reader, known) for reader in readers]


def _summed(reader: Reader, base: Reader) -> Reader:
    """The sum of a task vector and its base, and then its adapter: DoRA, IA3 and the like depend on whole weights."""
    if reader.origin.adapter is None:
        return _sum(reader, base)
    from graftwork.merge.models.adapted import AdaptedModel, adapt

    return adapt(_sum(reader.inner if isinstance(reader, AdaptedModel) else reader, base), reader.origin)


def _sum(delta: Reader, base: Reader) -> SummedModel:
    if delta.origin.identity == base.origin.identity:
        raise InvalidRecipe(where="base_model", reason=f"{base.label} is a task vector, and not a model")
    wanted = (task_vector_of(delta.origin) or {}).get("base_digest")
    actual = base.origin.version.digest if base.origin.version is not None else None
    if wanted is not None and actual is not None and wanted != actual:
        reason = f"the task vector was taken from the version {str(wanted)[:12]}, and the base is {actual[:12]}"
        raise IncompatibleModels(model=delta.label, other=base.label, reason=reason)
    check_same_model(base, delta)
    tensors = {
        name: located
        if located.info.dtype not in FLOATS
        else replace(located, info=replace(located.info, dtype="F32", end=located.info.begin + 4 * located.info.numel))
        for name, located in delta.layout.tensors.items()
    }
    return SummedModel(base, delta, replace(delta.layout, tensors=tensors))
