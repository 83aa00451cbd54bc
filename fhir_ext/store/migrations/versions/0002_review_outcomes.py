"""Outcomes of reviews, for agreement counts per model version."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "review_outcome",
        sa.Column("task_id", sa.String, primary_key=True),
        sa.Column("service", sa.String, nullable=False),
        sa.Column("model_id", sa.String, nullable=False, index=True),
        sa.Column("model_version", sa.String, nullable=False),
        sa.Column("settings_hash", sa.String, nullable=False),
        sa.Column("outcome", sa.String, nullable=False),
        sa.Column("differences", sa.JSON),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=False, index=True),
    )


def downgrade() -> None:
    op.drop_table("review_outcome")
