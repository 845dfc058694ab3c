"""Between an adapter's source, host memory and the rows of an engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from graftwork.adapters import forms
from graftwork.adapters.attachment.attach import Attachments
from graftwork.adapters.attachment.resident import Resident
from graftwork.adapters.changes import Lowered
from graftwork.adapters.residency.filed import FiledLora
from graftwork.adapters.residency.loader import open_adapter
from graftwork.adapters.residency.place import Place
from graftwork.adapters.residency.warm import WarmAdapters
from graftwork.errors import IncompatibleAdapter, TooLarge


class Installer:
    """Reads adapters for one base and writes them into rows that they own. Thread-safe."""

    def __init__(self, attachments: Attachments, base_name: str, *, host_bytes: int, form_bytes: int) -> None:
        self.warm = WarmAdapters(host_bytes)
        self._attachments = attachments
        self._base_name = base_name
        self._form_bytes = form_bytes

    def read(self, place: Place) -> FiledLora | Lowered:
        """The adapter from host memory, or else from its source. Raises what `Residency.request` fails with."""
        warm = self.warm.get(place.digest)
        if warm is not None:
            return warm
        source, base, dtype = place.source, self._attachments, self._attachments.dtype
        adapter: FiledLora | Lowered
        if isinstance(source, Path):
            adapter = open_adapter(source, base, dtype, name=place.name, base_name=self._base_name)
        else:
            adapter = source()
        adapter = adapter.renamed(self._attachments.name_of)
        self._check(adapter, place.name)
        if isinstance(adapter, FiledLora) and self._attachments.device.type != "cpu":
            adapter = adapter.lowered(dtype)
        if isinstance(adapter, Lowered):
            self.warm.put(place.digest, adapter)
        return adapter

    def write(self, place: Place, adapter: FiledLora | Lowered) -> Resident:
        """Write the adapter into the rows of its place. Raises what `FiledLora.write` raises."""
        start, end = place.extent
        with self._beside_steps():
            changed = forms.of(adapter, self._attachments) if isinstance(adapter, Lowered) else {}
            resident = Resident(place.digest, start, end - start, adapter.ranks, changed, adapter.gates, place.made_of)
            adapter.write(self._attachments.rows_of(resident))
        return resident

    def _check(self, adapter: FiledLora | Lowered, name: str) -> None:
        for module, wanted in adapter.shapes.items():
            shape = self._attachments.shape(module)
            if shape != wanted:
                there = "is not a linear layer of it" if shape is None else f"maps {shape[0]} to {shape[1]} there"
                reason = f"{module} {there}; the adapter maps {wanted[0]} to {wanted[1]}"
                raise IncompatibleAdapter(adapter=name, base=self._base_name, reason=reason)
        if adapter.rank > self._attachments.rows:
            limit = f"{self._attachments.rows} (adapter_rank_rows)"
            raise TooLarge(what=f"The adapter {name}", actual=f"rank {adapter.rank}", limit=limit)
        if adapter.device_bytes > self._form_bytes:
            limit = f"{self._form_bytes} (adapter_form_bytes)"
            raise TooLarge(what=f"The adapter {name}", actual=f"{adapter.device_bytes} bytes of forms", limit=limit)

    @contextmanager
    def _beside_steps(self) -> Iterator[None]:
        """Within the block, copies to a GPU do not queue up between the kernels of a step; at its end they are done."""
        if self._attachments.device.type != "cuda":
            yield
            return
        stream = torch.cuda.Stream(self._attachments.device)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(stream):
            yield
        stream.synchronize()
