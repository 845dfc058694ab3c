"""The tables of the registry. SQLite and PostgreSQL hold the same schema.

Times are seconds since 1970 on the database's clock. Digests are lower-case hexadecimal SHA-256.
"""

from graftwork.registry.tables.access import AuditRow, IdempotencyRow, QuotaRow, TokenRow
from graftwork.registry.tables.arrivals import CommitRow, RepositoryRow, UploadPartRow, UploadRow
from graftwork.registry.tables.artifacts import (
    AliasMoveRow,
    AliasRow,
    ArtifactRow,
    BlobRow,
    EdgeRow,
    EvaluationRow,
    FileRow,
    MarkRow,
    TagRow,
    TensorRow,
    VersionRow,
)
from graftwork.registry.tables.jobs import JobEventRow, JobRow, ScheduleRow
from graftwork.registry.tables.table import Table

SCHEMA_REVISION = "0002"
"""The newest migration. An opened registry is brought to it."""

__all__ = [
    "SCHEMA_REVISION",
    "AliasMoveRow",
    "AliasRow",
    "ArtifactRow",
    "AuditRow",
    "BlobRow",
    "CommitRow",
    "EdgeRow",
    "EvaluationRow",
    "FileRow",
    "IdempotencyRow",
    "JobEventRow",
    "JobRow",
    "MarkRow",
    "QuotaRow",
    "RepositoryRow",
    "ScheduleRow",
    "Table",
    "TagRow",
    "TensorRow",
    "TokenRow",
    "UploadPartRow",
    "UploadRow",
    "VersionRow",
]
