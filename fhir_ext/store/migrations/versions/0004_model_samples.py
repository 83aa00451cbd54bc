"""Samples of what model versions say, and alerts about them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def _text(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.String, nullable=False)


def _instant(name: str, *, index: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=False, index=index)


def upgrade() -> None:
    op.create_table(
        "model_sample",
        sa.Column("inference_key", sa.String, primary_key=True),
        sa.Column("role", sa.String, primary_key=True),
        sa.Column("pair", sa.String, nullable=False, index=True),
        *(_text(name) for name in ("service", "version", "settings_hash")),
        _instant("at", index=True),
        _text("status"),
        *(sa.Column(name, sa.JSON) for name in ("rules", "numbers", "categories", "mix")),
        sa.Column("latency_seconds", sa.Float),
        sa.Column("result", sa.JSON),
    )
    op.create_index("model_sample_of_version", "model_sample", ["service", "version", "at"])
    op.create_table(
        "model_alert",
        sa.Column("id", sa.String, primary_key=True),
        *(_text(n) for n in ("service", "version", "settings_hash", "title", "kind", "severity")),
        sa.Column("findings", sa.JSON),
        *(_instant(f"{span}_{end}") for span in ("reference", "window") for end in ("from", "to")),
        _instant("at", index=True),
    )


def downgrade() -> None:
    op.drop_table("model_alert")
    op.drop_table("model_sample")
