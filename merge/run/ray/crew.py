"""The actors of a merge on a Ray cluster, and who does what next."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from graftwork.errors import InvalidSetting, OperationFailed, ServerUnreachable
from graftwork.merge.plan.plan import Plan
from graftwork.merge.run.ray.order import Order
from graftwork.merge.run.ray.share import Share
from graftwork.merge.run.ray.worker import Worker
from graftwork.settings import Settings, variables

try:
    import ray
    from ray.exceptions import RayActorError, RayTaskError
except ImportError:
    expected = "local, or with the extra: pip install 'graftwork[ray]'"
    raise InvalidSetting(name="executor", value="ray", expected=expected) from None

RESTARTS = 1
"""How often an actor that died is replaced; the share that it was at is then done anew."""
CONNECT_SECONDS = 10.0
TICK_SECONDS = 0.5
"""How long nothing may be told while nothing is finished."""


class Crew:
    """Actors that are given one share after another; those that the cluster has no room for yet join later."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.size = _room(plan)
        actor = ray.remote(Worker).options(
            num_cpus=plan.threads,
            num_gpus=0 if plan.settings.device == "cpu" else 1,
            max_restarts=RESTARTS,
            max_task_retries=RESTARTS,
            runtime_env={"env_vars": variables(plan.settings)},
        )
        order = Order.of(plan)  # not by the object store: a replacement needs it when that has forgotten it
        self._actors = [actor.remote(order, folder) for _ in range(self.size)]
        self._preparing = {worker.prepare.remote(): worker for worker in self._actors}
        self._free: list[Any] = []

    def each(
        self, method: str, shares: Iterable[Share], *more: object, tick: Callable[[], None]
    ) -> Iterator[tuple[Share, Any]]:
        """Every share with what `method` of a worker returned for it, as they are finished.

        `tick` is called now and then meanwhile. Raises what a worker raises, OperationFailed when one died twice.
        """
        waiting = deque(shares)
        running: dict[Any, tuple[Any, Share]] = {}
        while waiting or running:
            while waiting and self._free:
                worker, share = self._free.pop(), waiting.popleft()
                running[getattr(worker, method).remote(share, *more)] = worker, share
            finished, _ = ray.wait([*running, *self._preparing], timeout=TICK_SECONDS)
            for reference in finished:
                found = _result(reference)
                if reference in self._preparing:
                    self._free.append(self._preparing.pop(reference))
                    continue
                worker, share = running.pop(reference)
                self._free.append(worker)
                yield share, found
            tick()

    def dismiss(self) -> None:
        """End the actors, whatever they are at."""
        for worker in self._actors:
            ray.kill(worker)


@contextmanager
def crew(plan: Plan, folder: Path) -> Iterator[Crew]:
    """The actors for a plan whose partial output is in `folder`.

    Raises InvalidSetting when no machine of the cluster has the processors for one, ServerUnreachable.
    """
    with _connected(plan.settings):
        workers = Crew(plan, folder)
        try:
            yield workers
        finally:
            workers.dismiss()


@contextmanager
def _connected(settings: Settings) -> Iterator[None]:
    """The cluster, for as long as the block lasts, unless this process is connected to one already."""
    if ray.is_initialized():
        yield
        return
    if settings.ray_address:
        _check_reachable(settings.ray_address)
    try:
        ray.init(settings.ray_address or None, log_to_driver=False, configure_logging=False)
    except ConnectionError as error:
        raise ServerUnreachable(url=settings.ray_address or "Ray", reason=_line(error)) from None
    try:
        yield
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Ray itself waits for minutes, and then ends the process."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise InvalidSetting(name="ray_address", value=address, expected="host:port")
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        raise ServerUnreachable(url=address, reason=error.strerror or error) from None


def _room(plan: Plan) -> int:
    """How many actors the cluster's machines have processors for, or as many of them as are wanted."""
    processors = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    room = sum(count // plan.threads for count in processors)
    if room == 0:
        expected = f"at most {max(processors, default=0)}, the processors of a machine of the Ray cluster"
        raise InvalidSetting(name="threads", value=plan.threads, expected=expected)
    return min(room, plan.settings.ray_workers or room)


def _result(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except RayTaskError as error:
        raise error.cause from None
    except RayActorError as error:
        reason = f"a worker died, and so did the one in its place ({_line(error)})"
        raise OperationFailed(what="The merge on Ray", reason=reason) from None


def _line(error: Exception) -> str:
    return str(error).splitlines()[0].rstrip(".")
