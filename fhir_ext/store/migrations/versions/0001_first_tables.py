"""First tables: cursors, leases, archive studies, runs, outcomes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _instant(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def upgrade() -> None:
    op.create_table(
        "cursor",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("value", sa.String, nullable=False),
    )
    op.create_table(
        "lease",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("holder", sa.String, nullable=False),
        _instant("expires_at"),
    )
    op.create_table(
        "archive_study",
        sa.Column("study_instance_uid", sa.String, primary_key=True),
        sa.Column("state", sa.String, nullable=False, index=True),
        sa.Column("reason", sa.String),
        sa.Column("instances", sa.Integer, nullable=False),
        sa.Column("archive_mark", sa.String),
        sa.Column("patient_id", sa.String),
        _instant("changed_at"),
        _instant("bridged_at", nullable=True),
    )
    op.create_table(
        "study_run",
        sa.Column("workflow_id", sa.String, primary_key=True),
        sa.Column("imaging_study_id", sa.String, nullable=False, index=True),
        sa.Column("version", sa.String, nullable=False),
        sa.Column("study_instance_uid", sa.String, index=True),
        sa.Column("state", sa.String, nullable=False, index=True),
        sa.Column("step", sa.String, nullable=False),
        sa.Column("reason", sa.String),
        sa.Column("detail", sa.String),
        sa.Column("queued_at", sa.DateTime(timezone=True), nullable=False, index=True),
        _instant("started_at", nullable=True),
        _instant("finished_at", nullable=True),
        sa.Column("step_seconds", sa.JSON),
    )
    op.create_table(
        "service_outcome",
        sa.Column("imaging_study_id", sa.String, primary_key=True),
        sa.Column("series_instance_uid", sa.String, primary_key=True),
        sa.Column("service", sa.String, primary_key=True),
        sa.Column("study_instance_uid", sa.String, nullable=False, index=True),
        sa.Column("workflow_id", sa.String, nullable=False),
        sa.Column("status", sa.String, nullable=False, index=True),
        sa.Column("reasons", sa.JSON),
        sa.Column("panel_id", sa.String),
        sa.Column("inference_key", sa.String),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False, index=True),
    )


def downgrade() -> None:
    for table in ("service_outcome", "study_run", "archive_study", "lease", "cursor"):
        op.drop_table(table)
