"""Parameters that an adapter repeats of its base: PEFT saves them beside an embedding or a head that is targeted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from graftwork.kernels.dtypes import numpy_dtype
from graftwork.merge.models.layers import HEAD, INPUT_EMBEDDING
from graftwork.merge.models.sources import Origin, Source, open_source
from graftwork.merge.slices.slices import GRAIN, slice_starts
from graftwork.registry.formats.adapters.names import names_in
from graftwork.registry.formats.adapters.parts import foldable, unfoldable
from graftwork.registry.formats.checkpoint import Located
from graftwork.registry.formats.peft import WEIGHTS_FILE, AdapterLayout
from graftwork.registry.formats.safetensors import DTYPE_BYTES, TensorInfo

SLICE = 16 * GRAIN


def without_copies(adapter: AdapterLayout, base: Origin) -> AdapterLayout:
    """The adapter without parameters of its own that are those of its base, in the dtype in which it stores them.

    Raises what opening the base raises, InputChanged.
    """
    source = open_source(base)
    try:
        called = names_in(source.layout.tensors, adapter.parts)
        parts = {}
        for module, part in adapter.parts.items():
            own = {}
            for role, info in part.own.items():
                located = _of_base(source, f"{called.get(module, module)}.{role.removeprefix('base_layer.')}")
                if located is None or not _is_copy(adapter, info, source, located):
                    own[role] = info
            if own or part.tensors:
                parts[module] = replace(part, own=own)
    finally:
        source.close()
    return replace(adapter, parts=parts, foldable=foldable(parts), unfoldable=unfoldable(parts))


def _of_base(source: Source, name: str) -> Located | None:
    """A tensor of the base; of a head that is not stored, the embedding."""
    tensors = source.layout.tensors
    if name not in tensors and HEAD.search(name):
        return next((at for other, at in tensors.items() if INPUT_EMBEDDING.search(other)), None)
    return tensors.get(name)


def _is_copy(adapter: AdapterLayout, info: TensorInfo, source: Source, located: Located) -> bool:
    if info.shape != located.info.shape:
        return False
    ours, theirs = numpy_dtype(info.dtype), numpy_dtype(located.info.dtype)
    with (adapter.root / WEIGHTS_FILE).open("rb") as file:
        file.seek(info.begin)
        for start in slice_starts(info.numel, SLICE):
            count = min(SLICE, info.numel - start)
            stored = np.frombuffer(file.read(count * DTYPE_BYTES[info.dtype]), ours)
            values = np.empty(count, theirs)
            source.read(located, start * DTYPE_BYTES[located.info.dtype], values.view(np.uint8).data)
            if not np.array_equal(stored, values.astype(ours)):
                return False
    return True
