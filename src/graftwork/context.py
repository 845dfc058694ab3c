"""What is true of the work at hand wherever it goes: the HTTP request or the job that it belongs to."""

from __future__ import annotations

from contextvars import ContextVar

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The id of the request that is being answered; None outside of one."""
job_id: ContextVar[str | None] = ContextVar("job_id", default=None)
"""The id of the job that is being carried out; None outside of one."""
