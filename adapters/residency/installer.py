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
from graftwork.adapters.residency.loader import load_adapter
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

    def read(self, place: Place) -> Lowered:
        """The adapter from host memory, or else from its source. Raises what `Residency.request` fails with."""
        adapter = self.warm.get(place.digest)
        if adapter is None:
            source = place.source
            if isinstance(source, Path):
                base, dtype = self._attachments, self._attachments.dtype
                adapter = load_adapter(source, base, dtype, name=place.name, base_name=self._base_name)
            else:
                adapter = source()
            adapter = self._attachments.adopt(adapter)
            self._check(adapter, place.name)
            self.warm.put(place.digest, adapter)
        return adapter

    def write(self, place: Place, adapter: Lowered) -> Resident:
        """Write the adapter into the rows of its place."""
        start, end = place.extent
        with self._beside_steps():
            changed = {} if adapter.is_plain else forms.of(adapter, self._attachments)
            resident = Resident(place.digest, start, end - start, adapter.ranks, changed, adapter.gates, place.made_of)
            self._attachments.install(resident, adapter.low_rank)
        return resident

    def _check(self, adapter: Lowered, name: str) -> None:
        for module, factors in adapter.low_rank.items():
            shape, wanted = self._attachments.shape(module), (factors.a.shape[1], factors.b.shape[1])
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
