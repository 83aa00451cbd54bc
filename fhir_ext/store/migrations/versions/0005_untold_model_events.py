"""What the audit is still to be told of changes of model versions; what stands was told."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("model_event", sa.Column("untold", sa.JSON))


def downgrade() -> None:
    op.drop_column("model_event", "untold")
