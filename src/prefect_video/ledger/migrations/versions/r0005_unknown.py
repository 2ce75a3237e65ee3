"""When a submit's outcome became unknown, and an index over all that was ever sent."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_INSTANT = sa.String().with_variant(postgresql.TIMESTAMP(timezone=True), "postgresql")
_SENDING = sa.text("to_state = 'submitting'")


def upgrade() -> None:
    op.add_column("generations", sa.Column("unknown_at", _INSTANT))
    op.create_index("ix_history_sending", "history", ["at"], sqlite_where=_SENDING, postgresql_where=_SENDING)
