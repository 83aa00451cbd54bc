"""Model versions, where they stand, and what was done with them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def _instant(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def upgrade() -> None:
    op.create_table(
        "model_version",
        sa.Column("service", sa.String, primary_key=True),
        sa.Column("version", sa.String, primary_key=True),
        sa.Column("settings_hash", sa.String, nullable=False),
        sa.Column("title", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False, index=True),
        sa.Column("share", sa.Float, nullable=False),
        sa.Column("shipped", sa.Boolean, nullable=False),
        sa.Column("folder", sa.String, nullable=False),
        sa.Column("digest", sa.String, nullable=False),
        _instant("installed_at"),
        _instant("changed_at"),
        _instant("tested_at", nullable=True),
        sa.Column("test_passed", sa.Boolean),
        sa.Column("tested_digest", sa.String),
        sa.Column("tested_software", sa.String),
        sa.Column("test_report", sa.JSON),
    )
    for state in ("active", "canary"):
        where = sa.text(f"state = '{state}'")
        op.create_index(
            f"model_version_one_{state}",
            "model_version",
            ["service"],
            unique=True,
            sqlite_where=where,
            postgresql_where=where,
        )
    op.create_table(
        "model_event",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False, index=True),
        sa.Column("service", sa.String, nullable=False, index=True),
        sa.Column("version", sa.String, nullable=False),
        sa.Column("action", sa.String, nullable=False),
        sa.Column("from_state", sa.String),
        sa.Column("to_state", sa.String, nullable=False),
        sa.Column("share", sa.Float, nullable=False),
        sa.Column("who", sa.String, nullable=False),
        sa.Column("how", sa.String, nullable=False),
        sa.Column("reason", sa.String),
        sa.Column("digest", sa.String, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("model_event")
    op.drop_table("model_version")
