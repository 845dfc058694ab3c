"""The thread that steps an engine while there is work, from its start to its end."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from graftwork.adapters.steps.turn import Turn
from graftwork.errors import Overloaded

SWITCH_SECONDS = 0.0002
"""How long another thread may keep the interpreter from a step. A step asks for it again after every kernel, hundreds
of times, so that Python's own 5 ms would let one busy thread make all answers several times slower."""

logger = logging.getLogger(__name__)


class StepLoop:
    """Calls `step` while it finds work, in a thread of its own after `start`; without it, the caller steps.

    Every method may be called from any thread.
    """

    def __init__(self, name: str, step: Callable[[], bool], fail: Callable[[Exception], None]) -> None:
        """`step` says whether there was something to do; `fail` ends what it cannot go on with when it raises."""
        self.turn = Turn()
        """Whose turn it is to use the model: `step` takes it, and so does who computes beside steps."""
        self._name = name
        self._step = step
        self._fail = fail
        self._admission = threading.Lock()
        self._closed = False
        self._stopping = False
        self._attention = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def is_started(self) -> bool:
        """Whether it has a thread."""
        return self._thread is not None

    @property
    def is_alive(self) -> bool:
        """Whether its thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, prepare: Callable[[], None] = lambda: None) -> None:
        """Step in a thread of its own from now on, which calls `prepare` first. Does nothing the second time."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, args=(prepare,), name=self._name, daemon=True)
            self._thread.start()

    def wake(self) -> None:
        """There is something to do."""
        self._attention.set()

    @contextmanager
    def admitting(self) -> Iterator[None]:
        """Within the block, nothing is closed. Raises Overloaded when it is."""
        with self._admission:
            if self._closed:
                raise Overloaded(reason="this engine is closed")
            yield

    def close(self) -> None:
        """Admit nothing any more."""
        with self._admission:
            self._closed = True

    def drain(self, pending: Callable[[], Callable[[], object] | None]) -> None:
        """Go on until nothing is `pending`, which gives a way to wait for some of it."""
        while (wait := pending()) is not None:
            if self._thread is None:
                self._step()
            else:
                wait()

    def stop(self) -> None:
        """End the thread after the step that it computes."""
        self._stopping = True
        self._attention.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self, prepare: Callable[[], None]) -> None:
        sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_SECONDS))
        prepare()
        while not self._stopping:
            self._attention.clear()
            try:
                busy = self._step()
            except Exception as error:
                logger.exception("a step failed where none should")
                self._fail(error)
                continue
            if not busy and not self._stopping:
                self._attention.wait()
