"""What was asked for is at odds with what is there."""

from __future__ import annotations

from graftwork.errors.error import GraftworkError


class Conflict(GraftworkError):
    """It conflicts with what is already there."""

    code = "conflict"


class AliasConflict(Conflict):
    """The alias {alias!r} of {name} is at {actual:.12}, not at {expected:.12}: someone moved it first."""

    code = "alias_conflict"


class VersionQuarantined(Conflict):
    """{ref} is quarantined ({reason}): it can be read, and neither served nor merged nor pointed at by an alias."""

    code = "version_quarantined"


class VersionInUse(Conflict):
    """{ref} cannot be withdrawn while something refers to it: {users}."""

    code = "version_in_use"


class ScheduleExists(Conflict):
    """There is a schedule {name} already; remove it first or choose another name."""

    code = "schedule_exists"


class PromotionRefused(Conflict):
    """{ref} does not become {alias}: {reason}."""

    code = "promotion_refused"


class KindConflict(Conflict):
    """{name} is {actual} and cannot take a version that is {offered}."""

    code = "kind_conflict"


class UploadConflict(Conflict):
    """The upload {id} cannot go on like this: {reason}."""

    code = "upload_conflict"


class OutputExists(Conflict):
    """{path} already exists and is not empty: name a folder that does not exist yet."""

    code = "output_exists"


class OutputBusy(Conflict):
    """Another process is writing {path}: wait for it or name another folder."""

    code = "output_busy"


class RepositoryExists(Conflict):
    """There is a repository {name} already."""

    code = "repository_exists"


class StaleCommit(Conflict):
    """{name} is at {actual} and not at {expected}, which the commit was made for: fetch it and commit again."""

    code = "stale_commit"


class RequestInFlight(Conflict):
    """A request with the Idempotency-Key {key!r} is being answered: wait for it and ask again."""

    code = "request_in_flight"
