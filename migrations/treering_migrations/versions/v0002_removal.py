"""Removal: which streams have removed events, how far their content is erased, and what
tells that a SQLite file lost the end of its log."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision: str | None = "0001"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

COLUMNS = (
    "ALTER TABLE streams ADD COLUMN deleted_version bigint NOT NULL DEFAULT 0",
    "ALTER TABLE streams ADD COLUMN erased_version bigint NOT NULL DEFAULT 0",
    "ALTER TABLE streams ADD COLUMN changed bigint",
    "ALTER TABLE log ADD COLUMN served integer NOT NULL DEFAULT 0",
)
CHANGED = "CREATE INDEX streams_changed ON streams (changed) WHERE changed IS NOT NULL"
REMOVALS = {
    "postgresql": "CREATE TABLE removals (stream_id bigint PRIMARY KEY)",
    "sqlite": "CREATE TABLE removals (stream_id INTEGER NOT NULL PRIMARY KEY)",
}


def upgrade() -> None:
    """Adds columns with constant defaults, which rewrites no row, and two small indexes."""
    name = op.get_context().dialect.name
    for statement in (*COLUMNS, CHANGED, REMOVALS[name]):
        if name == "sqlite":
            statement = statement.replace("bigint", "INTEGER").replace(" integer", " INTEGER")
        op.execute(sa.text(statement))


def downgrade() -> None:
    """What is removed would come back."""
    raise NotImplementedError("a log is not undone: go on with this version or a later one")
