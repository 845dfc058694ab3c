"""A device's queues run beside each other: no access to memory may overtake one that it has to wait for.

torch's CPU tensors have no queues, so here every access of a merge is noted with a vector clock: what its queue, or its
thread of the host, is known to have waited for. Two accesses to the same bytes, one of them a write, must be in order.
"""

from __future__ import annotations

import itertools
import threading
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from graftwork.kernels.arrays import arrays_in
from graftwork.kernels.dispatch import Kernel
from graftwork.merge.device import lane
from graftwork.merge.device.accelerator import Accelerator
from graftwork.merge.models.sources import Source
from graftwork.merge.run import device_intake as intake
from graftwork.merge.run.execute import Run
from graftwork.merge.slices.slices import GRAIN

Clock = dict[int, int]
NUMBERS = itertools.count()


class Queue:
    """A stream, or a thread of the host: things that happen in order."""

    def __init__(self) -> None:
        self.number = next(NUMBERS)
        self.clock: Clock = {self.number: 0}

    def learn(self, clock: Clock) -> None:
        for number, time in clock.items():
            self.clock[number] = max(self.clock.get(number, 0), time)

    def wait_event(self, event: Event) -> None:
        self.learn(here().thread.clock)
        self.learn(event.clock)


class Event:
    def __init__(self) -> None:
        self.clock: Clock = {}

    def record(self, stream: Queue) -> None:
        stream.learn(here().thread.clock)
        self.clock = dict(stream.clock)

    def synchronize(self) -> None:
        here().thread.learn(self.clock)


class Here(threading.local):
    """The calling thread, the stream it queues into, and the one it computes in."""

    def __init__(self) -> None:
        self.thread = Queue()
        self.stream: Queue | None = None


HERE = Here()


def here() -> Here:
    return HERE


@dataclass(frozen=True, slots=True)
class Access:
    start: int
    stop: int
    queue: int
    time: int
    writes: bool


@dataclass
class Memory:
    """The accesses to what a lane allocated."""

    blocks: dict[int, int] = field(default_factory=dict)
    accesses: dict[int, list[Access]] = field(default_factory=lambda: defaultdict(list))
    races: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def allocate(self, tensor: Tensor, queue: Queue | None) -> Tensor:
        """Note new memory; what `queue` did before may still use it."""
        start, stop = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
        with self.lock:
            for base in [base for base, end in self.blocks.items() if base < stop and start < end]:
                del self.blocks[base], self.accesses[base]  # what was there before was freed
            self.blocks[start], self.accesses[start] = stop, []
        if queue is not None:
            self.note(tensor.data_ptr(), tensor.nbytes, queue, writes=True)
        return tensor

    def note(self, start: int, nbytes: int, queue: Queue, *, writes: bool) -> None:
        with self.lock:
            block = next((base for base, end in self.blocks.items() if base <= start < end), None)
            if block is None or nbytes == 0:
                return
            queue.learn(here().thread.clock)
            queue.clock[queue.number] += 1
            now = Access(start, start + nbytes, queue.number, queue.clock[queue.number], writes)
            for before in self.accesses[block]:
                meets = before.start < now.stop and now.start < before.stop and (before.writes or writes)
                if meets and queue.clock.get(before.queue, 0) < before.time:
                    self.races.append(f"{now} does not wait for {before}")
            self.accesses[block].append(now)


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Memory:
    """Notes every access of the merges of a test."""
    noted = Memory()

    class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            schema = func._schema
            result = func(*args, **(kwargs or {}))
            if any(part.alias_info is not None and not part.alias_info.is_write for part in schema.returns):
                return result  # a view
            if func in (torch.ops.aten.new_empty.default, torch.ops.aten.empty.memory_format):
                return noted.allocate(result, here().stream)
            for declared, value in zip(schema.arguments, args, strict=False):
                for tensor in [value] if isinstance(value, Tensor) else []:
                    writes = declared.alias_info is not None and declared.alias_info.is_write
                    noted.note(tensor.data_ptr(), tensor.nbytes, here().stream or here().thread, writes=writes)
            return result

    class Noted(Accelerator):
        def stream(self) -> Queue:
            return Queue()

        def event(self) -> Event:
            return Event()

        @contextmanager
        def within(self, stream: Queue) -> Iterator[None]:
            before, here().stream = here().stream, stream
            yield
            here().stream = before

        def stay_within(self, stream: Queue) -> None:
            here().stream = stream
            Watch().__enter__()  # type: ignore[no-untyped-call]

        def empty(self, nbytes: int) -> Tensor:
            return noted.allocate(super().empty(nbytes), here().stream)

        def pinned(self, nbytes: int) -> Tensor:
            return noted.allocate(super().pinned(nbytes), None)

    run = Kernel.run

    def run_noted(self: Kernel[..., Any], *arguments: Any) -> Any:
        queue = here().stream
        for array in arrays_in(arguments):
            if queue is not None and isinstance(array, Tensor):
                writes = any(array is written for written in arguments[: 2 if "between" in self.name else 1])
                noted.note(array.data_ptr(), array.nbytes, queue, writes=writes and self.name != "ties_votes")
        result = run(self, *arguments)
        if queue is not None and any(isinstance(array, np.ndarray) for array in arguments):
            here().thread.learn(queue.clock)  # a result in host memory has been waited for
        return result

    submit, result_of = ThreadPoolExecutor.submit, Future.result

    def submit_noted(self: ThreadPoolExecutor, task: Any, *given: Any) -> Future[Any]:
        known, ended = dict(here().thread.clock), {}

        def work() -> Any:
            here().thread.learn(known)
            try:
                return task(*given)
            finally:
                ended.update(here().thread.clock)

        future = submit(self, work)
        clocks[future] = ended
        return future

    def result_noted(self: Future[Any], timeout: float | None = None) -> Any:
        here().thread.learn(clocks[self])
        return result_of(self, timeout)

    clocks: dict[Future[Any], Clock] = {}
    read = Source.read

    def read_noted(self: Source, tensor: Any, start: int, into: memoryview) -> None:
        noted.note(np.frombuffer(into, np.uint8).ctypes.data, into.nbytes, here().thread, writes=True)
        read(self, tensor, start, into)

    put = Run._check_and_put

    def put_noted(self: Run, tensor: Any, piece: Any, out: Any) -> None:
        noted.note(out.ctypes.data, out.nbytes, here().thread, writes=False)
        put(self, tensor, piece, out)

    monkeypatch.setattr(intake, "Accelerator", Noted)
    monkeypatch.setattr(Kernel, "run", run_noted)
    monkeypatch.setattr(ThreadPoolExecutor, "submit", submit_noted)
    monkeypatch.setattr(Future, "result", result_noted)
    monkeypatch.setattr(Source, "read", read_noted)
    monkeypatch.setattr(Run, "_check_and_put", put_noted)
    monkeypatch.setattr("graftwork.merge.device.LONGEST_SLICE", GRAIN)
    return noted


METHODS: dict[str, dict[str, Any]] = {
    "task_arithmetic": {},
    "ties": {"density": 0.2},
    "della": {"density": 0.5, "epsilon": 0.1},
    "model_stock": {},
    "sce": {"select_topk": 0.4},
}


def merge(bench: Any, method: str, memory_limit: int) -> None:
    random = np.random.default_rng(0)
    shapes = {
        "model.layers.0.weight": (700, 500),
        "model.layers.1.weight": (9, 11),
        "model.layers.2.weight": (500, 700),
    }
    base = {name: random.normal(size=shape) for name, shape in shapes.items()}
    family = [base] + [{name: x + 0.02 * random.normal(size=x.shape) for name, x in base.items()} for _ in range(2)]
    paths = [
        bench.write(f"model-{number}", {name: x.astype(np.float32) for name, x in model.items()})
        for number, model in enumerate(family)
    ]
    recipe = bench.recipe(method, paths, parameters=METHODS[method])
    expected = bench.merge(recipe, "on the CPU")
    merged = bench.merge(recipe, "on a device", device="cpu:0", memory=memory_limit)
    assert all(np.array_equal(merged[name], expected[name]) for name in expected)


@pytest.mark.parametrize("memory_limit", [500_000_000, 30_000_000, 14_000_000])
@pytest.mark.parametrize("method", METHODS)
def test_no_access_overtakes_another(bench: Any, memory: Memory, method: str, memory_limit: int) -> None:
    merge(bench, method, memory_limit)
    assert len(memory.blocks) > 10
    assert not memory.races, memory.races[0]


@pytest.mark.parametrize("forgotten", ["up waits", "compute waits", "down waits", "host waits"])
def test_a_wait_that_is_left_out_is_found(
    bench: Any, memory: Memory, forgotten: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    which = {"up waits": "_up", "compute waits": "_compute", "down waits": "_down"}
    made = lane.Lane.__init__

    def forgetful(self: Any, accelerator: Any) -> None:
        made(self, accelerator)
        getattr(self, which[forgotten]).wait_event = lambda event: None

    if forgotten in which:
        monkeypatch.setattr(lane.Lane, "__init__", forgetful)
    else:
        monkeypatch.setattr(Event, "synchronize", lambda self: None)
    merge(bench, "task_arithmetic", 30_000_000)
    assert memory.races
