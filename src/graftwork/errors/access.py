"""Who asks may not, or not now."""

from __future__ import annotations

from graftwork.errors.error import GraftworkError


class Unauthorized(GraftworkError):
    """{reason}."""

    code = "unauthorized"


class Forbidden(GraftworkError):
    """{owner} may not do this: it takes a token with the scope {scope} in {namespace} (--grant {namespace}={scope})."""

    code = "forbidden"


class QuotaExceeded(Forbidden):
    """The namespace {namespace} may hold {limit} and would hold {actual}: delete something or have its quota raised."""

    code = "quota_exceeded"


class Overloaded(GraftworkError):
    """The server is at capacity: {reason}; try again in a moment."""

    code = "overloaded"


class NoAdapterCapacity(Overloaded):
    """The adapter {adapter} needs {needed} rank rows; {free} are free and the rest ({total} in all) are in use."""

    code = "no_adapter_capacity"


class RateLimited(Overloaded):
    """{owner} may have {limit} {unit} and asks for more; try again in {retry_after} seconds."""

    code = "rate_limited"


class QueueFull(Overloaded):
    """The server is at capacity: {waiting} requests are waiting (max_queue); try again in {retry_after} seconds."""

    code = "queue_full"


class EngineUnavailable(Overloaded):
    """No server of the fleet can answer for {model}: {reason}."""

    code = "engine_unavailable"
