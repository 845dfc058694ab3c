"""What was begun did not come to its end."""

from __future__ import annotations

from graftwork.errors.error import GraftworkError


class Cancelled(GraftworkError):
    """{what} was cancelled."""

    code = "cancelled"


class DeadlineExceeded(GraftworkError):
    """The request was not done within {seconds} seconds: its own timeout, or the setting request_timeout."""

    code = "deadline_exceeded"


class OperationFailed(GraftworkError):
    """{what} failed: {reason}."""

    code = "operation_failed"


class CorruptBlob(OperationFailed):
    """The stored file {path} has SHA-256 {actual}, not {expected}: restore it from its source."""

    code = "corrupt_blob"


class InputChanged(OperationFailed):
    """{path} changed while it was being read; run the same command again."""

    code = "input_changed"


class StorageFull(OperationFailed):
    """{path} needs {needed} bytes and its disk has {available}: free some space or name another disk."""

    code = "storage_full"


class DatabaseUnavailable(OperationFailed):
    """The database does not answer; try again in a moment."""

    code = "database_unavailable"


class StorageUnavailable(OperationFailed):
    """The object storage did not {action} {place}: {reason}."""

    code = "storage_unavailable"


class HubUnavailable(OperationFailed):
    """{source} could not be fetched from the Hub: {reason}."""

    code = "hub_unavailable"


class AdapterProbeFailed(OperationFailed):
    """The adapter {adapter} was loaded but its probe failed ({reason}); what served before still serves."""

    code = "adapter_probe_failed"


class LeaseLost(OperationFailed):
    """The job {id} is no longer held by this worker: another one took it over."""

    code = "lease_lost"


class ServerUnavailable(OperationFailed):
    """The server could not be started on {address}: {reason}."""

    code = "server_unavailable"


class ServerUnreachable(OperationFailed):
    """The server {url} cannot be reached: {reason}."""

    code = "server_unreachable"
