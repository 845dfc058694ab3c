"""Which adapters are in an engine's rank rows, who uses them, and who has to go."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from weakref import WeakSet

import torch

from graftwork.adapters.attachment.attach import Attachments
from graftwork.adapters.attachment.resident import Resident
from graftwork.adapters.changes import BaseWeights, Lowered
from graftwork.adapters.residency.alarm import Alarm
from graftwork.adapters.residency.filed import FiledLora
from graftwork.adapters.residency.installer import Installer
from graftwork.adapters.residency.lease import Lease
from graftwork.adapters.residency.limits import Limits
from graftwork.adapters.residency.place import Occupant, Place, Size, Source, Stage, Waiter
from graftwork.adapters.residency.room import Room
from graftwork.adapters.residency.row_queue import RowQueue
from graftwork.errors import AdapterProbeFailed, NoAdapterCapacity, Overloaded


class Residency:
    """Loads adapters by digest, pins them, and evicts the least recently used ones that nobody pins.

    An adapter goes from its source into host memory and from there into rank rows, on threads of the residency; steps
    go on meanwhile, since what is written owns rows that no step reads. What is pinned is never evicted. Every method
    may be called from any thread.
    """

    def __init__(
        self,
        attachments: Attachments,
        probe: Callable[[Resident], None],
        *,
        base_name: str,
        limits: Limits | None = None,
    ) -> None:
        """`probe` runs one forward with the adapter and raises AdapterProbeFailed."""
        self._limits = limits or Limits()
        self._attachments = attachments
        self._probe = probe
        self._room = Room(attachments.rows, self._limits.form_bytes)
        self._places: OrderedDict[str, Place] = OrderedDict()  # least recently used first
        self._queue = RowQueue(self._limits.waiting, self._limits.patience)
        self._kept: set[str] = set()
        self._installer = Installer(
            attachments, base_name, host_bytes=self._limits.host_bytes, form_bytes=self._limits.form_bytes
        )
        self._probed: WeakSet[Resident] = WeakSet()
        self._lock = threading.Lock()
        self._loaders = ThreadPoolExecutor(self._limits.loaders, thread_name_prefix="graftwork-loader")
        self._alarm = Alarm(self._tick)
        self._pending: set[Place] = set()  # those that somebody waits for
        self._leaving: set[Place] = set()  # retired ones that are not free yet
        self._pumping = False
        self._closed = False

    @property
    def digests(self) -> list[str]:
        """The adapters that have rows, least recently used first."""
        with self._lock:
            return [digest for digest, place in self._places.items() if place.stage in (Stage.WRITING, Stage.READY)]

    @property
    def occupants(self) -> list[Occupant]:
        """Every adapter that has rows or is on its way to them, least recently used first."""
        with self._lock:
            return [
                Occupant(digest, p.name, p.stage, p.size.rows, p.size.bytes, p.pins, digest in self._kept)
                for digest, p in self._places.items()
            ]

    @property
    def dtype(self) -> torch.dtype:
        """What adapters are rounded to."""
        return self._attachments.dtype

    @property
    def device(self) -> torch.device:
        """Where the rows are."""
        return self._attachments.device

    @property
    def base(self) -> BaseWeights:
        """The parameters that adapters change."""
        return self._attachments

    @property
    def is_busy(self) -> bool:
        """Whether anybody holds a lease or waits for one."""
        with self._lock:
            return bool(self._pending or self._leaving or any(place.pins for place in self._places.values()))

    @property
    def free_rows(self) -> int:
        """Rank rows that no adapter owns."""
        with self._lock:
            return self._room.free

    @property
    def host_bytes(self) -> int:
        """Bytes of the adapters in host memory."""
        return self._installer.warm.bytes

    def pins(self, digest: str) -> int:
        """How many leases on the adapter are held."""
        with self._lock:
            place = self._places.get(digest)
            return place.pins if place else 0

    def leaving(self, digest: str) -> int:
        """How many leases are held on what was retired of the adapter, and of what is made of it."""
        with self._lock:
            return sum(place.pins for place in self._leaving if digest in place.made_of)

    def issued(self, lease: Lease) -> bool:
        """Whether the lease pins an adapter of this residency."""
        return isinstance(lease.pins, Place) and lease.pins.residency is self

    def pin(self, digest: str) -> Lease | None:
        """A lease on an adapter that is resident; None when it is not."""
        with self._lock:
            place = self._places.get(digest)
            return self._lease(place) if place is not None else None

    def request(
        self,
        digest: str,
        source: Source,
        *,
        name: str | None = None,
        wait: float = 0.0,
        made_of: frozenset[str] = frozenset(),
    ) -> Future[Lease]:
        """A lease on the adapter, as soon as it is resident; callers at the same time share one load.

        `name` stands for it in messages; `made_of` are the digests of everything that it cannot be without, beside its
        own. When no unpinned adapters can make room, the caller waits for up to `wait` seconds. The future fails with
        NoAdapterCapacity after that, TooLarge for an adapter that exceeds all rank rows, IncompatibleAdapter,
        NonFiniteTensor, Overloaded after `close`, and what reading the source raises. Who cancels it need not release
        anything.
        """
        future: Future[Lease] = Future()
        with self._lock:
            if self._closed:
                raise Overloaded(reason="this engine is closed")
            place = self._places.get(digest)
            lease = self._lease(place) if place is not None else None
            if lease is None:
                is_new = place is None
                if place is None:
                    place = self._places[digest] = Place(digest, source, name or digest[:12], made_of, self)
                place.waiters.append(Waiter(future, time.monotonic() + wait))
                self._arm()
                if is_new:
                    self._pending.add(place)
                    self._loaders.submit(self._bring, place)
        if lease is not None:
            future.set_result(lease)
        return future

    def acquire(self, digest: str, source: Source, *, name: str | None = None, wait: float = 0.0) -> Lease:
        """The lease that `request` promises, waited for. Raises what its future fails with."""
        return self.request(digest, source, name=name, wait=wait).result()

    def prepare(
        self,
        digest: str,
        source: Source,
        *,
        name: str | None = None,
        wait: float = 0.0,
        made_of: frozenset[str] = frozenset(),
    ) -> None:
        """Load the adapter and run one real forward with it, unless it passed before.

        Raises AdapterProbeFailed, after which it is not resident, and what `acquire` raises.
        """
        with self.request(digest, source, name=name, wait=wait, made_of=made_of).result() as lease:
            if lease.resident in self._probed:
                return
            try:
                self._probe(lease.resident)
            except AdapterProbeFailed as error:
                self.retire(digest)
                raise AdapterProbeFailed(adapter=name or digest[:12], reason=error.fields["reason"]) from error
            self._probed.add(lease.resident)

    def keep(self, digest: str) -> None:
        """Never evict the adapter, once it is resident, until `let_go`."""
        with self._lock:
            self._kept.add(digest)

    def let_go(self, digest: str) -> None:
        """Let the adapter be evicted again when nobody pins it."""
        with self._lock:
            self._kept.discard(digest)
            self._pump_soon()

    def retire(self, digest: str) -> None:
        """Take no new pins on what is loaded of the adapter, and forget its copy in host memory; mixtures too.

        Rows are freed with the last pin. Whoever asks for it afterwards has it loaded again.
        """
        with self._lock:
            places = [place for place in self._places.values() if digest in place.made_of]
            for place in places:
                self._retire(place)
        for gone in {digest, *(place.digest for place in places)}:
            self._installer.warm.drop(gone)

    def close(self) -> None:
        """Load nothing any more, and fail those who wait with Overloaded. Leases stay as they are."""
        with self._lock:
            self._closed = True
            self._alarm.cancel()
        self._loaders.shutdown(wait=True, cancel_futures=True)
        for place in list(self._pending):
            self._fail(place, Overloaded(reason="this engine is closed"))

    def pin_again(self, place: Place) -> None:
        """Count one more lease on what is pinned already (a lease's side of `Lease.share`)."""
        with self._lock:
            place.pins += 1

    def unpin(self, place: Place) -> None:
        """Count one lease less (a lease's side of `Lease.release`)."""
        with self._lock:
            place.pins -= 1
            if place.pins == 0:
                self._free_if_done(place)
                self._pump_soon()

    def _bring(self, place: Place) -> None:
        """Read an adapter and give it rows, or let it wait for them."""
        try:
            adapter = self._installer.read(place)
            with self._lock:
                place.size = Size(max(1, adapter.rank), adapter.device_bytes)
                granted = (self._queue.overdue is None) and self._reserve(place)
                refused = not granted and self._queue.is_full
                if not granted and not refused:
                    self._queue.push(place)
        except BaseException as error:
            self._fail(place, error)
            raise
        if granted:
            self._write(place, adapter)
        elif refused:
            self._fail(place, self._no_capacity(place))
        else:
            self._tick()

    def _reserve(self, place: Place) -> bool:
        """Give the adapter rows, if what nobody needs makes room for it. Under the lock."""
        idle = [
            other
            for other in self._places.values()
            if other.stage is Stage.READY and other.pins == 0 and other.digest not in self._kept
        ]
        victims = self._room.victims(place.size, idle)
        if victims is None:
            return False
        for victim in victims:
            self._retire(victim)
        self._room.give(place)
        place.stage = Stage.WRITING
        return True

    def _write(self, place: Place, adapter: FiledLora | Lowered | None = None) -> None:
        """Write an adapter into the rows it was given, and hand out leases on it."""
        try:
            resident = self._installer.write(place, adapter or self._installer.read(place))
        except BaseException as error:
            with self._lock:
                self._room.take_back(place)
                self._pump_soon()
            self._fail(place, error)
            raise
        with self._lock:
            place.resident, place.stage = resident, Stage.READY
            self._pending.discard(place)
            waiters, place.waiters = place.waiters, []
            place.pins += len(waiters)
            if self._places.get(place.digest) is place:
                self._places.move_to_end(place.digest)
            if not waiters:
                self._free_if_done(place)
                self._pump_soon()
        for waiter in waiters:
            if waiter.future.set_running_or_notify_cancel():
                waiter.future.set_result(Lease(resident, place))
            else:
                place.unpin()

    def _lease(self, place: Place) -> Lease | None:
        """A new pin on what is ready. Under the lock."""
        if place.resident is None:
            return None
        place.pins += 1
        self._places.move_to_end(place.digest)
        return Lease(place.resident, place)

    def _retire(self, place: Place) -> None:
        """Under the lock."""
        del self._places[place.digest]
        place.retired = True
        self._leaving.add(place)
        self._free_if_done(place)

    def _free_if_done(self, place: Place) -> None:
        if place.retired and place.stage is Stage.READY and place.pins == 0:
            self._leaving.discard(place)
            self._room.take_back(place)

    def _fail(self, place: Place, error: BaseException) -> None:
        with self._lock:
            if self._places.get(place.digest) is place:
                del self._places[place.digest]
            self._queue.remove(place)
            self._pending.discard(place)
            self._leaving.discard(place)
            waiters, place.waiters = place.waiters, []
        _tell((waiter.future for waiter in waiters), error)

    def _no_capacity(self, place: Place) -> NoAdapterCapacity:
        return NoAdapterCapacity(
            adapter=place.name, needed=place.size.rows, free=self._room.free, total=self._room.total
        )

    def _pump_soon(self) -> None:
        """Look again at those who wait for rows, on another thread. Under the lock."""
        if len(self._queue) and not self._closed and not self._pumping:
            self._pumping = True
            self._loaders.submit(self._tick)

    def _tick(self) -> None:
        """Give rows to those who wait for them, and tell those whose time is over."""
        with self._lock:
            self._pumping = False
            if self._closed:
                return
            for place in self._queue.candidates():
                if place.is_wanted and self._reserve(place):
                    self._queue.remove(place)
                    self._loaders.submit(self._write, place)
            self._drain_for(self._queue.overdue)
            unwanted, late = self._queue.expire()
            for place in unwanted:
                self._pending.discard(place)
                self._leaving.discard(place)
                if self._places.get(place.digest) is place:
                    del self._places[place.digest]
            self._arm()
        for place, waiter in late:
            _tell([waiter.future], self._no_capacity(place))

    def _drain_for(self, place: Place | None) -> None:
        """Let the adapters that are least recently asked for take no new pins, so that one that waits gets rows."""
        if place is None or place.was_patient:
            return
        place.was_patient = True
        ready = [p for p in self._places.values() if p.stage is Stage.READY and p.digest not in self._kept]
        for victim in self._room.victims(place.size, ready) or ():
            self._retire(victim)

    def _arm(self) -> None:
        """Have `_tick` run when the next one's time is over. Under the lock."""
        if not self._closed:
            self._alarm.set(self._queue.next_event())


def _tell(futures: Iterable[Future[Lease]], error: BaseException) -> None:
    for future in futures:
        if future.set_running_or_notify_cancel():
            future.set_exception(error)
