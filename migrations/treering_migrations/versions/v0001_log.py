"""The log: events, streams, tags, and the incarnations that they were recorded in.

Written out, and never changed once released: what a migration does must not follow
what the code says of the tables today.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision: str | None = None
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

POSTGRESQL = """
CREATE TABLE log (
  one integer PRIMARY KEY CONSTRAINT log_has_one_row CHECK (one = 1),
  log_id uuid NOT NULL,
  generation bigint NOT NULL DEFAULT 0,
  system_id text,
  timeline text);
CREATE TABLE incarnations (
  ordinal integer PRIMARY KEY,
  log_id uuid NOT NULL UNIQUE,
  first_position bigint NOT NULL,
  began_at bigint NOT NULL,
  cause text NOT NULL);
CREATE TABLE categories (id integer PRIMARY KEY, name text COLLATE "C" NOT NULL UNIQUE);
CREATE TABLE types (id integer PRIMARY KEY, name text COLLATE "C" NOT NULL UNIQUE);
CREATE TABLE streams (
  id bigint PRIMARY KEY,
  name text COLLATE "C" NOT NULL UNIQUE,
  category_id integer NOT NULL,
  floor_version bigint NOT NULL DEFAULT 0,
  truncate_before bigint NOT NULL DEFAULT 0,
  max_count bigint,
  max_age_us bigint,
  state smallint NOT NULL DEFAULT 0);
CREATE TABLE events (
  position bigint PRIMARY KEY CONSTRAINT events_from_one CHECK (position > 0),
  recorded_at bigint NOT NULL,
  stream_id bigint,
  version bigint,
  id uuid NOT NULL,
  category_id integer,
  type_id integer NOT NULL,
  format smallint NOT NULL DEFAULT 0,
  record bytea,
  CONSTRAINT events_stream_and_version CHECK ((stream_id IS NULL) = (version IS NULL)));
ALTER TABLE events ALTER record SET STORAGE EXTERNAL;
CREATE UNIQUE INDEX events_id ON events (id);
CREATE UNIQUE INDEX events_stream ON events (stream_id, version) INCLUDE (position);
CREATE INDEX events_type ON events (type_id, position);
CREATE INDEX events_category ON events (category_id, position);
CREATE TABLE event_tags (
  tag text COLLATE "C" NOT NULL, position bigint NOT NULL, PRIMARY KEY (tag, position));
ALTER TABLE events SET (
  autovacuum_vacuum_insert_scale_factor = 0.01, autovacuum_analyze_scale_factor = 0.01);
ALTER TABLE event_tags SET (
  autovacuum_vacuum_insert_scale_factor = 0.01, autovacuum_analyze_scale_factor = 0.01);
"""

SQLITE = """
CREATE TABLE log (
  one INTEGER NOT NULL PRIMARY KEY CONSTRAINT log_has_one_row CHECK (one = 1),
  log_id BLOB NOT NULL,
  generation INTEGER NOT NULL DEFAULT 0,
  system_id TEXT,
  timeline TEXT);
CREATE TABLE incarnations (
  ordinal INTEGER NOT NULL PRIMARY KEY,
  log_id BLOB NOT NULL UNIQUE,
  first_position INTEGER NOT NULL,
  began_at INTEGER NOT NULL,
  cause TEXT NOT NULL);
CREATE TABLE categories (id INTEGER NOT NULL PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE types (id INTEGER NOT NULL PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE streams (
  id INTEGER NOT NULL PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  category_id INTEGER NOT NULL,
  floor_version INTEGER NOT NULL DEFAULT 0,
  truncate_before INTEGER NOT NULL DEFAULT 0,
  max_count INTEGER,
  max_age_us INTEGER,
  state INTEGER NOT NULL DEFAULT 0);
CREATE TABLE events (
  position INTEGER NOT NULL PRIMARY KEY CONSTRAINT events_from_one CHECK (position > 0),
  recorded_at INTEGER NOT NULL,
  stream_id INTEGER,
  version INTEGER,
  id BLOB NOT NULL,
  category_id INTEGER,
  type_id INTEGER NOT NULL,
  format INTEGER NOT NULL DEFAULT 0,
  record BLOB,
  CONSTRAINT events_stream_and_version CHECK ((stream_id IS NULL) = (version IS NULL)));
CREATE UNIQUE INDEX events_id ON events (id);
CREATE UNIQUE INDEX events_stream ON events (stream_id, version);
CREATE INDEX events_type ON events (type_id, position);
CREATE INDEX events_category ON events (category_id, position);
CREATE TABLE event_tags (
  tag TEXT NOT NULL, position INTEGER NOT NULL, PRIMARY KEY (tag, position)) WITHOUT ROWID;
"""


def upgrade() -> None:
    """Makes all tables."""
    script = POSTGRESQL if op.get_context().dialect.name == "postgresql" else SQLITE
    for statement in script.split(";\n"):
        if statement.strip():
            op.execute(sa.text(statement))


def downgrade() -> None:
    """There is nothing before the log."""
    raise NotImplementedError("a log is not undone: drop the database instead")
