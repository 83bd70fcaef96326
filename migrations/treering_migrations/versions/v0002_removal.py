"""Removal: which streams have removed events, how far their content is erased, and what
tells that a SQLite file lost the end of its log."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision: str | None = "0001"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

POSTGRESQL = """
ALTER TABLE streams ADD COLUMN deleted_version bigint NOT NULL DEFAULT 0;
ALTER TABLE streams ADD COLUMN erased_version bigint NOT NULL DEFAULT 0;
ALTER TABLE streams ADD COLUMN changed bigint;
ALTER TABLE log ADD COLUMN served integer NOT NULL DEFAULT 0;
CREATE INDEX streams_changed ON streams (changed) WHERE changed IS NOT NULL;
CREATE TABLE removals (stream_id bigint PRIMARY KEY);
"""

SQLITE = """
ALTER TABLE streams ADD COLUMN deleted_version INTEGER NOT NULL DEFAULT 0;
ALTER TABLE streams ADD COLUMN erased_version INTEGER NOT NULL DEFAULT 0;
ALTER TABLE streams ADD COLUMN changed INTEGER;
ALTER TABLE log ADD COLUMN served INTEGER NOT NULL DEFAULT 0;
CREATE INDEX streams_changed ON streams (changed) WHERE changed IS NOT NULL;
CREATE TABLE removals (stream_id INTEGER NOT NULL PRIMARY KEY);
"""


def upgrade() -> None:
    """Adds columns with constant defaults, which rewrites no row, and what is small."""
    script = POSTGRESQL if op.get_context().dialect.name == "postgresql" else SQLITE
    for statement in script.split(";\n"):
        if statement.strip():
            op.execute(sa.text(statement))


def downgrade() -> None:
    """What is removed would come back."""
    raise NotImplementedError("a log is not undone: go on with this version or a later one")
