"""Engines follow the registry: what other processes move is made ready, what they withdraw is served no more."""

from __future__ import annotations

import logging
import threading

from sqlalchemy.exc import DBAPIError

from graftwork.adapters.hosting.host import Host
from graftwork.errors import DatabaseUnavailable, GraftworkError
from graftwork.registry.catalog.watch import AliasChange, Watch
from graftwork.registry.registry import Registry

logger = logging.getLogger(__name__)


def run_watcher(registry: Registry, host: Host, stop: threading.Event, *, seconds: float) -> None:
    """Look at once and every `seconds` until `stop` is set.

    A database that cannot be reached for a while does not end it.
    """
    watch: Watch | None = None
    while not stop.is_set():
        try:
            watch = watch or Watch(registry.database)
            follow_once(registry, host, watch)
        except DatabaseUnavailable:  # the database said so, once
            pass
        except DBAPIError:
            logger.exception("the registry cannot be watched; trying again")
        stop.wait(seconds)


def follow_once(registry: Registry, host: Host, watch: Watch) -> None:
    """Do what the changes since the last time ask for. An adapter that cannot be loaded is only logged."""
    changes = watch.poll()
    host.bar(changes.barred)
    for change in changes.aliases:
        try:
            follow_change(registry, host, change)
        except GraftworkError as error:
            logger.warning("%s of %s cannot be made ready: %s", change.after[:12], change.key, error)


def follow_change(registry: Registry, host: Host, change: AliasChange) -> None:
    """Make ready what an alias moves to, when the version that it leaves is in use.

    The change may be old news: what is kept for the alias is what it points at now.
    """
    is_used = change.before is not None and host.is_resident(change.before)
    if not is_used and not host.keeps(change.key, change.alias):
        return
    version = registry.catalog.by_digest(change.after)
    host.prepare(version, replaces=change.before)
    if change.done:
        host.follow(change.key, change.alias)
