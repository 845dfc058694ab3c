"""One failing adapter must not end the requests on others that were computed in the same step."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TypeVar

from graftwork.errors import GraftworkError, OperationFailed

W = TypeVar("W")
R = TypeVar("R")

logger = logging.getLogger(__name__)


def compute_isolated(
    works: list[W],
    compute: Callable[[list[W]], R],
    by_adapter: Callable[[list[W]], list[list[W]]],
    fail: Callable[[list[W], Exception], None],
) -> Iterator[tuple[list[W], R]]:
    """What `compute` makes of the works together; should that fail, of each adapter's by themselves.

    Works of one adapter that fail go to `fail`.
    """
    try:
        computed = compute(works)
    except Exception as error:
        groups = by_adapter(works)
        if len(groups) > 1:
            logger.warning("a step failed and is repeated adapter by adapter", exc_info=True)
            for group in groups:
                yield from compute_isolated(group, compute, by_adapter, fail)
        else:
            logger.exception("a step failed")
            fail(works, error)
        return
    yield works, computed


def as_failure(error: Exception, what: str) -> GraftworkError:
    """The error itself when callers may see it, or that `what` failed of it."""
    if isinstance(error, GraftworkError):
        return error
    failure = OperationFailed(what=what, reason=f"{type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure
