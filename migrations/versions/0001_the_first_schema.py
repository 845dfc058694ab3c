"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
QUEUED = sa.text("state = 'queued'")
RUNNING = sa.text("state = 'running'")
LIVE = sa.text("state IN ('queued', 'running')")


def upgrade() -> None:
    op.create_table(
        "artifacts",
        sa.Column("id", KEY, nullable=False),
        sa.Column("key", sa.String(length=193), nullable=False),
        sa.Column("namespace", sa.String(length=96), nullable=False),
        sa.Column("name", sa.String(length=96), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_artifacts"),
        sa.UniqueConstraint("key", name="uq_artifacts_key"),
    )
    op.create_index("ix_artifacts_kind", "artifacts", ["kind"], unique=False)
    op.create_table(
        "blobs",
        sa.Column("id", KEY, nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_blobs"),
        sa.UniqueConstraint("sha256", name="uq_blobs_sha256"),
    )
    op.create_table(
        "schedules",
        sa.Column("id", KEY, nullable=False),
        sa.Column("name", sa.String(length=193), nullable=False),
        sa.Column("cron", sa.String(length=128), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("next_at", sa.Double(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_schedules"),
        sa.UniqueConstraint("name", name="uq_schedules_name"),
    )
    op.create_table(
        "alias_moves",
        sa.Column("id", KEY, nullable=False),
        sa.Column("artifact_id", KEY, nullable=False),
        sa.Column("alias", sa.String(length=96), nullable=False),
        sa.Column("before", sa.String(length=64), nullable=True),
        sa.Column("after", sa.String(length=64), nullable=True),
        sa.Column("actor", sa.String(length=256), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("moved_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["artifact_id"], ["artifacts.id"], name="fk_alias_moves_artifact_id"),
        sa.PrimaryKeyConstraint("id", name="pk_alias_moves"),
    )
    op.create_index("ix_alias_moves_artifact_id_alias", "alias_moves", ["artifact_id", "alias"], unique=False)
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("key", sa.String(length=128), nullable=True),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("run_at", sa.Double(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("max_attempts", sa.Integer(), nullable=False),
        sa.Column("lease_owner", sa.String(length=128), nullable=True),
        sa.Column("lease_expires_at", sa.Double(), nullable=True),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.Column("progress", sa.Double(), nullable=False),
        sa.Column("result", sa.JSON(), nullable=True),
        sa.Column("error_code", sa.String(length=64), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("schedule_id", KEY, nullable=True),
        sa.Column("fire_at", sa.Double(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("finished_at", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["schedule_id"], ["schedules.id"], name="fk_jobs_schedule_id"),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
        sa.UniqueConstraint("schedule_id", "fire_at", name="uq_jobs_schedule_id_fire_at"),
    )
    op.create_index("ix_jobs_created_at", "jobs", ["created_at"], unique=False)
    op.create_index("ix_jobs_live_key", "jobs", ["key"], unique=True, sqlite_where=LIVE, postgresql_where=LIVE)
    op.create_index(
        "ix_jobs_queued",
        "jobs",
        ["priority", "run_at", "id"],
        unique=False,
        sqlite_where=QUEUED,
        postgresql_where=QUEUED,
    )
    op.create_index(
        "ix_jobs_running", "jobs", ["lease_expires_at"], unique=False, sqlite_where=RUNNING, postgresql_where=RUNNING
    )
    op.create_table(
        "tensors",
        sa.Column("blob_id", KEY, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=512), nullable=False),
        sa.Column("dtype", sa.String(length=16), nullable=False),
        sa.Column("shape", sa.String(length=96), nullable=False),
        sa.Column("begin_at", sa.BigInteger(), nullable=False),
        sa.Column("end_at", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(length=32), nullable=False),
        sa.ForeignKeyConstraint(["blob_id"], ["blobs.id"], name="fk_tensors_blob_id"),
        sa.PrimaryKeyConstraint("blob_id", "position", name="pk_tensors"),
    )
    op.create_table(
        "versions",
        sa.Column("id", KEY, nullable=False),
        sa.Column("artifact_id", KEY, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("base", sa.String(length=64), nullable=True),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["artifact_id"], ["artifacts.id"], name="fk_versions_artifact_id"),
        sa.PrimaryKeyConstraint("id", name="pk_versions"),
        sa.UniqueConstraint("artifact_id", "digest", name="uq_versions_artifact_id_digest"),
        sa.UniqueConstraint("artifact_id", "number", name="uq_versions_artifact_id_number"),
    )
    op.create_index("ix_versions_base", "versions", ["base"], unique=False)
    op.create_index("ix_versions_digest", "versions", ["digest"], unique=False)
    op.create_table(
        "aliases",
        sa.Column("artifact_id", KEY, nullable=False),
        sa.Column("alias", sa.String(length=96), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["artifact_id", "digest"], ["versions.artifact_id", "versions.digest"], name="fk_aliases_artifact_id"
        ),
        sa.PrimaryKeyConstraint("artifact_id", "alias", name="pk_aliases"),
    )
    op.create_index("ix_aliases_artifact_id_digest", "aliases", ["artifact_id", "digest"], unique=False)
    op.create_table(
        "edges",
        sa.Column("child_id", KEY, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("parent", sa.String(length=64), nullable=False),
        sa.Column("relation", sa.String(length=32), nullable=False),
        sa.Column("weight", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["child_id"], ["versions.id"], name="fk_edges_child_id"),
        sa.PrimaryKeyConstraint("child_id", "position", name="pk_edges"),
    )
    op.create_index("ix_edges_parent", "edges", ["parent"], unique=False)
    op.create_table(
        "evaluations",
        sa.Column("id", KEY, nullable=False),
        sa.Column("version_id", KEY, nullable=False),
        sa.Column("dataset", sa.String(length=193), nullable=False),
        sa.Column("metric", sa.String(length=96), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name="fk_evaluations_version_id"),
        sa.PrimaryKeyConstraint("id", name="pk_evaluations"),
    )
    op.create_index("ix_evaluations_version_id", "evaluations", ["version_id"], unique=False)
    op.create_table(
        "files",
        sa.Column("version_id", KEY, nullable=False),
        sa.Column("path", sa.String(length=512), nullable=False),
        sa.Column("blob_id", KEY, nullable=False),
        sa.ForeignKeyConstraint(["blob_id"], ["blobs.id"], name="fk_files_blob_id"),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name="fk_files_version_id"),
        sa.PrimaryKeyConstraint("version_id", "path", name="pk_files"),
    )
    op.create_index("ix_files_blob_id", "files", ["blob_id"], unique=False)


def downgrade() -> None:
    for table in (
        "files",
        "evaluations",
        "edges",
        "aliases",
        "versions",
        "tensors",
        "jobs",
        "alias_moves",
        "schedules",
        "blobs",
        "artifacts",
    ):
        op.drop_table(table)
