"""Access, uploads in parts, repositories, marks, tags, events of jobs, and more about schedules."""

from __future__ import annotations

from contextlib import suppress

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "audit",
        sa.Column("id", KEY, nullable=False),
        sa.Column("happened_at", sa.Double(), nullable=False),
        sa.Column("actor", sa.String(length=256), nullable=False),
        sa.Column("action", sa.String(length=64), nullable=False),
        sa.Column("target", sa.String(length=512), nullable=False),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.Column("request_id", sa.String(length=64), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
    )
    op.create_index("ix_audit_happened_at", "audit", ["happened_at"], unique=False)
    op.create_index("ix_audit_target_id", "audit", ["target", "id"], unique=False)
    op.create_table(
        "idempotency_keys",
        sa.Column("owner", sa.String(length=96), nullable=False),
        sa.Column("key", sa.String(length=128), nullable=False),
        sa.Column("request", sa.String(length=64), nullable=False),
        sa.Column("response", sa.JSON(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("owner", "key", name="pk_idempotency_keys"),
    )
    op.create_index("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"], unique=False)
    op.create_table(
        "quotas",
        sa.Column("namespace", sa.String(length=96), nullable=False),
        sa.Column("max_bytes", sa.BigInteger(), nullable=True),
        sa.Column("max_versions", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("namespace", name="pk_quotas"),
    )
    op.create_table(
        "repositories",
        sa.Column("id", KEY, nullable=False),
        sa.Column("key", sa.String(length=193), nullable=False),
        sa.Column("namespace", sa.String(length=96), nullable=False),
        sa.Column("name", sa.String(length=96), nullable=False),
        sa.Column("private", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_repositories"),
        sa.UniqueConstraint("key", name="uq_repositories_key"),
    )
    op.create_table(
        "tokens",
        sa.Column("id", KEY, nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=96), nullable=False),
        sa.Column("owner", sa.String(length=96), nullable=False),
        sa.Column("grants", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=True),
        sa.Column("revoked_at", sa.Double(), nullable=True),
        sa.Column("last_used_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_tokens"),
        sa.UniqueConstraint("sha256", name="uq_tokens_sha256"),
    )
    op.create_index("ix_tokens_owner", "tokens", ["owner"], unique=False)
    op.create_table(
        "uploads",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("owner", sa.String(length=96), nullable=False),
        sa.Column("namespace", sa.String(length=96), nullable=False),
        sa.Column("intent", sa.JSON(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("touched_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_uploads"),
    )
    op.create_index("ix_uploads_namespace", "uploads", ["namespace"], unique=False)
    op.create_index("ix_uploads_touched_at", "uploads", ["touched_at"], unique=False)
    op.create_table(
        "commits",
        sa.Column("id", KEY, nullable=False),
        sa.Column("repository_id", KEY, nullable=False),
        sa.Column("branch", sa.String(length=96), nullable=False),
        sa.Column("revision", sa.String(length=40), nullable=False),
        sa.Column("parent", sa.String(length=40), nullable=True),
        sa.Column("tree", sa.JSON(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=True),
        sa.Column("message", sa.String(length=1024), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["repository_id"], ["repositories.id"], name="fk_commits_repository_id"),
        sa.PrimaryKeyConstraint("id", name="pk_commits"),
    )
    op.create_index("ix_commits_repository_id_branch_id", "commits", ["repository_id", "branch", "id"], unique=False)
    op.create_index("ix_commits_revision", "commits", ["revision"], unique=False)
    op.create_table(
        "tags",
        sa.Column("artifact_id", KEY, nullable=False),
        sa.Column("tag", sa.String(length=96), nullable=False),
        sa.ForeignKeyConstraint(["artifact_id"], ["artifacts.id"], name="fk_tags_artifact_id"),
        sa.PrimaryKeyConstraint("artifact_id", "tag", name="pk_tags"),
    )
    op.create_index("ix_tags_tag", "tags", ["tag"], unique=False)
    op.create_table(
        "upload_parts",
        sa.Column("upload_id", sa.String(length=32), nullable=False),
        sa.Column("path", sa.String(length=512), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["upload_id"], ["uploads.id"], name="fk_upload_parts_upload_id"),
        sa.PrimaryKeyConstraint("upload_id", "path", "number", name="pk_upload_parts"),
    )
    op.create_table(
        "job_events",
        sa.Column("id", KEY, nullable=False),
        sa.Column("job_id", sa.String(length=32), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.Column("happened_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_job_events_job_id"),
        sa.PrimaryKeyConstraint("id", name="pk_job_events"),
    )
    op.create_index("ix_job_events_job_id_id", "job_events", ["job_id", "id"], unique=False)
    op.create_table(
        "marks",
        sa.Column("version_id", KEY, nullable=False),
        sa.Column("mark", sa.String(length=16), nullable=False),
        sa.Column("cause_id", KEY, nullable=True),
        sa.Column("actor", sa.String(length=256), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("marked_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["cause_id"], ["versions.id"], name="fk_marks_cause_id"),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name="fk_marks_version_id"),
        sa.PrimaryKeyConstraint("version_id", "mark", name="pk_marks"),
    )
    op.create_index("ix_marks_cause_id", "marks", ["cause_id"], unique=False)
    op.add_column("artifacts", sa.Column("namespace_key", sa.String(length=96), server_default="", nullable=False))
    op.execute("UPDATE artifacts SET namespace_key = lower(namespace)")
    op.create_index("ix_artifacts_namespace_key_key", "artifacts", ["namespace_key", "key"], unique=False)
    op.create_index("ix_artifacts_kind_key", "artifacts", ["kind", "key"], unique=False)
    op.add_column("artifacts", sa.Column("private", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("blobs", sa.Column("generation", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.add_column("blobs", sa.Column("stored", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("blobs", sa.Column("touched_at", sa.Double(), nullable=True))
    op.add_column("blobs", sa.Column("condemned_at", sa.Double(), nullable=True))
    op.execute("UPDATE blobs SET stored = true, touched_at = created_at")
    op.create_index("ix_blobs_touched_at", "blobs", ["touched_at"], unique=False)
    op.create_index("ix_blobs_condemned_at", "blobs", ["condemned_at"], unique=False)
    op.add_column("evaluations", sa.Column("dataset_digest", sa.String(length=64), nullable=True))
    op.add_column("evaluations", sa.Column("job_id", sa.String(length=32), nullable=True))
    op.add_column("evaluations", sa.Column("key", sa.String(length=64), server_default="", nullable=False))
    op.create_index("ix_evaluations_key", "evaluations", ["key"], unique=False)
    op.add_column("jobs", sa.Column("owner", sa.String(length=96), server_default="", nullable=False))
    op.add_column("jobs", sa.Column("grants", sa.JSON(), nullable=True))
    op.add_column("jobs", sa.Column("started_at", sa.Double(), nullable=True))
    op.add_column("schedules", sa.Column("time_zone", sa.String(length=64), server_default="UTC", nullable=False))
    op.add_column("schedules", sa.Column("catch_up", sa.String(length=16), server_default="one", nullable=False))
    op.add_column("schedules", sa.Column("overlap", sa.String(length=16), server_default="skip", nullable=False))
    op.add_column("schedules", sa.Column("priority", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.add_column("schedules", sa.Column("owner", sa.String(length=96), server_default="", nullable=False))
    op.add_column("schedules", sa.Column("grants", sa.JSON(), nullable=True))

    _index_trigrams()


def _index_trigrams() -> None:
    """On PostgreSQL, find parts of names by an index, where its extension pg_trgm may be used; else by reading all."""
    connection = op.get_bind()
    if connection.dialect.name != "postgresql":
        return
    available = "SELECT 1 FROM pg_available_extensions WHERE name = 'pg_trgm'"
    if connection.scalar(sa.text(available)) is None:
        return
    with suppress(sa.exc.DBAPIError), connection.begin_nested():  # not everybody may add extensions
        connection.execute(sa.text("CREATE EXTENSION IF NOT EXISTS pg_trgm WITH SCHEMA public"))
        where = "SELECT nspname FROM pg_extension JOIN pg_namespace n ON n.oid = extnamespace WHERE extname = 'pg_trgm'"
        schema = connection.scalar(sa.text(where))
        index = f'CREATE INDEX ix_artifacts_trigrams ON artifacts USING gin (key "{schema}".gin_trgm_ops)'
        connection.execute(sa.text(index))


def downgrade() -> None:
    op.execute("DROP INDEX IF EXISTS ix_artifacts_trigrams")
    op.drop_column("schedules", "grants")
    op.drop_column("schedules", "owner")
    op.drop_column("schedules", "priority")
    op.drop_column("schedules", "overlap")
    op.drop_column("schedules", "catch_up")
    op.drop_column("schedules", "time_zone")
    op.drop_column("jobs", "started_at")
    op.drop_column("jobs", "grants")
    op.drop_column("jobs", "owner")
    op.drop_index("ix_evaluations_key", table_name="evaluations")
    op.drop_column("evaluations", "key")
    op.drop_column("evaluations", "job_id")
    op.drop_column("evaluations", "dataset_digest")
    op.drop_index("ix_blobs_condemned_at", table_name="blobs")
    op.drop_column("blobs", "condemned_at")
    op.drop_index("ix_blobs_touched_at", table_name="blobs")
    op.drop_column("blobs", "touched_at")
    op.drop_column("blobs", "stored")
    op.drop_column("blobs", "generation")
    op.drop_column("artifacts", "private")
    op.drop_index("ix_artifacts_kind_key", table_name="artifacts")
    op.drop_index("ix_artifacts_namespace_key_key", table_name="artifacts")
    op.drop_column("artifacts", "namespace_key")
    op.drop_index("ix_marks_cause_id", table_name="marks")
    op.drop_table("marks")
    op.drop_index("ix_job_events_job_id_id", table_name="job_events")
    op.drop_table("job_events")
    op.drop_table("upload_parts")
    op.drop_index("ix_tags_tag", table_name="tags")
    op.drop_table("tags")
    op.drop_index("ix_commits_revision", table_name="commits")
    op.drop_index("ix_commits_repository_id_branch_id", table_name="commits")
    op.drop_table("commits")
    op.drop_index("ix_uploads_touched_at", table_name="uploads")
    op.drop_index("ix_uploads_namespace", table_name="uploads")
    op.drop_table("uploads")
    op.drop_index("ix_tokens_owner", table_name="tokens")
    op.drop_table("tokens")
    op.drop_table("repositories")
    op.drop_table("quotas")
    op.drop_index("ix_idempotency_keys_created_at", table_name="idempotency_keys")
    op.drop_table("idempotency_keys")
    op.drop_index("ix_audit_target_id", table_name="audit")
    op.drop_index("ix_audit_happened_at", table_name="audit")
    op.drop_table("audit")
