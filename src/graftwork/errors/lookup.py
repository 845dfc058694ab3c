"""What was asked for is not there."""

from __future__ import annotations

from graftwork.errors.error import GraftworkError


class NotFound(GraftworkError):
    """It does not exist."""

    code = "not_found"


class SourceNotFound(NotFound):
    """There is nothing at {source!r}: expected {expected}."""

    code = "source_not_found"


class ArtifactNotFound(NotFound):
    """There is no artifact {name} in the registry."""

    code = "artifact_not_found"

    def __init__(self, **fields: object) -> None:
        super().__init__(**fields)
        if "similar" in fields:
            self.args = (f"{str(self).rstrip('.')}, but there is {fields['similar']}.",)


class RevisionNotFound(NotFound):
    """{name} has no alias or version {revision!r}; it has {known}."""

    code = "revision_not_found"


class VersionWithdrawn(NotFound):
    """{ref} was withdrawn ({reason})."""

    code = "version_withdrawn"


class AliasNotFound(NotFound):
    """{name} has no alias {alias!r}; it has {known}."""

    code = "alias_not_found"


class JobNotFound(NotFound):
    """There is no job {id!r}."""

    code = "job_not_found"


class ScheduleNotFound(NotFound):
    """There is no schedule {name}."""

    code = "schedule_not_found"


class TokenNotFound(NotFound):
    """There is no token {id}."""

    code = "token_not_found"


class UploadNotFound(NotFound):
    """There is no upload {id!r}: it was never begun, was deleted, or was left alone for too long."""

    code = "upload_not_found"


class ArrivalNotFound(NotFound):
    """Nothing has arrived in the storage as {name}: PUT it to the URL that was signed for it first."""

    code = "arrival_not_found"


class ModelNotFound(NotFound):
    """The model {model!r} cannot answer: {reason}."""

    code = "model_not_found"


class EntryNotFound(NotFound):
    """{name} has no file {path!r} at {revision}."""

    code = "entry_not_found"
