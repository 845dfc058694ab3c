"""Which adapters are in an engine's rank rows, who uses them, and who has to go."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from weakref import WeakSet

from graftwork.adapters.attach import Attachments
from graftwork.adapters.lease import Lease
from graftwork.adapters.loader import load_factors
from graftwork.adapters.pool import RankRows, Resident
from graftwork.errors import AdapterProbeFailed, IncompatibleAdapter, NoAdapterCapacity, TooLarge
from graftwork.registry.formats.peft import AdapterLayout, read_adapter


class Residency:
    """Loads adapters by digest, pins them, and evicts the least recently used one that nobody pins.

    Every method may be called from any thread. Files are read and rows written by the calling thread, outside the
    lock: what is being loaded owns rows that no step reads, and what is pinned is never evicted.
    """

    def __init__(self, attachments: Attachments, probe: Callable[[Resident], None], *, base_name: str) -> None:
        """`probe` runs one forward with the adapter and raises AdapterProbeFailed."""
        self._attachments = attachments
        self._probe = probe
        self._base_name = base_name
        self._rows = RankRows(attachments.rows)
        self._entries: OrderedDict[str, _Entry] = OrderedDict()  # least recently used first
        self._probed: WeakSet[Resident] = WeakSet()
        self._lock = threading.Lock()

    @property
    def digests(self) -> list[str]:
        """The adapters that are loaded or being loaded, least recently used first."""
        with self._lock:
            return list(self._entries)

    @property
    def free_rows(self) -> int:
        """Rank rows that no adapter owns."""
        with self._lock:
            return self._rows.free

    def pins(self, digest: str) -> int:
        """How many leases on the adapter are held."""
        with self._lock:
            entry = self._entries.get(digest)
            return entry.pins if entry else 0

    def issued(self, lease: Lease) -> bool:
        """Whether the lease pins an adapter of this residency."""
        return isinstance(lease.pins, _Entry) and lease.pins.residency is self

    def pin(self, digest: str) -> Lease | None:
        """A lease on an adapter that is resident; None when it is not."""
        with self._lock:
            entry = self._entries.get(digest)
            if entry is None:
                return None
            self._pin(entry)
        return entry.lease()

    def acquire(self, digest: str, folder: Path, *, name: str | None = None) -> Lease:
        """A lease on the adapter, loaded from `folder` unless it is resident; concurrent callers load it once.

        `name` stands for it in messages. Room is reserved before a factor is read. Raises NoAdapterCapacity when what
        is pinned leaves too few rank rows in one piece, TooLarge when it exceeds all rank rows, IncompatibleAdapter,
        NonFiniteTensor, and what `read_adapter` raises.
        """
        lease = self.pin(digest)
        if lease is not None:
            return lease
        name = name or digest[:12]
        layout = read_adapter(folder)
        self._check(layout, name)
        entry, is_new = self._reserve(digest, layout, name)
        if is_new:
            self._load(entry, layout)
        return entry.lease()

    def prepare(self, digest: str, folder: Path, *, name: str | None = None) -> None:
        """Load the adapter and run one real forward with it, unless it passed before.

        Raises AdapterProbeFailed, after which it is not resident, and what `acquire` raises.
        """
        with self.acquire(digest, folder, name=name) as lease:
            if lease.resident in self._probed:
                return
            try:
                self._probe(lease.resident)
            except AdapterProbeFailed as error:
                self.retire(digest)
                raise AdapterProbeFailed(adapter=name or digest[:12], reason=error.fields["reason"]) from error
            self._probed.add(lease.resident)

    def retire(self, digest: str) -> None:
        """Take no new pins on what is loaded of the adapter; its rows are freed with the last pin."""
        with self._lock:
            entry = self._entries.pop(digest, None)
            if entry is not None:
                entry.retired = True
                self._free_if_done(entry)

    def _check(self, layout: AdapterLayout, name: str) -> None:
        for module in layout.modules.values():
            shape = self._attachments.shape(module.module)
            if shape != (module.in_features, module.out_features):
                there = "is not a linear layer of it" if shape is None else f"maps {shape[0]} to {shape[1]} there"
                here = f"{module.in_features} to {module.out_features}"
                reason = f"{module.module} {there}; the adapter maps {here}"
                raise IncompatibleAdapter(adapter=name, base=self._base_name, reason=reason)

    def _reserve(self, digest: str, layout: AdapterLayout, name: str) -> tuple[_Entry, bool]:
        """The pinned entry of `digest`, and whether this caller has to load it."""
        ranks = {module.module: module.rank for module in layout.modules.values()}
        needed = max(ranks.values())
        if needed > self._rows.total:
            limit = f"{self._rows.total} (adapter_rank_rows)"
            raise TooLarge(what=f"The adapter {name}", actual=f"rank {needed}", limit=limit)
        with self._lock:
            if digest in self._entries:
                entry = self._entries[digest]
                self._pin(entry)
                return entry, False
            self._make_room(needed, name)
            start = self._rows.allocate(needed)
            assert start is not None  # noqa: S101  room was made
            entry = _Entry(Resident(digest, start, needed, ranks), self)
            self._entries[digest] = entry
            return entry, True

    def _make_room(self, needed: int, name: str) -> None:
        idle = {entry.resident.extent: entry for entry in self._entries.values() if entry.pins == 0}
        victims = self._rows.victims(needed, list(idle))
        if victims is None:
            raise NoAdapterCapacity(adapter=name, needed=needed, free=self._rows.free, total=self._rows.total)
        for extent in victims:
            entry = idle[extent]
            del self._entries[entry.resident.digest]
            self._rows.release(entry.resident.start)

    def _load(self, entry: _Entry, layout: AdapterLayout) -> None:
        try:
            self._attachments.install(entry.resident, load_factors(layout, self._attachments.dtype))
        except BaseException as error:
            with self._lock:
                if not entry.retired:
                    del self._entries[entry.resident.digest]
                self._rows.release(entry.resident.start)
            entry.loaded.set_exception(error)
            raise
        entry.loaded.set_result(None)

    def _pin(self, entry: _Entry) -> None:
        entry.pins += 1
        self._entries.move_to_end(entry.resident.digest)

    def _free_if_done(self, entry: _Entry) -> None:
        if entry.retired and entry.pins == 0:
            self._rows.release(entry.resident.start)


class _Entry:
    """One adapter's place, from the moment its rows are reserved. Its fields are guarded by the residency's lock."""

    def __init__(self, resident: Resident, residency: Residency) -> None:
        self.resident = resident
        self.pins = 1
        self.retired = False
        self.loaded: Future[None] = Future()
        self.residency = residency

    def lease(self) -> Lease:
        """A lease that takes over a counted pin, once the rows are written; raises what the loading raised."""
        self.loaded.result()
        return Lease(self.resident, self)

    def pin(self) -> None:
        with self.residency._lock:
            self.pins += 1

    def unpin(self) -> None:
        with self.residency._lock:
            self.pins -= 1
            self.residency._free_if_done(self)
