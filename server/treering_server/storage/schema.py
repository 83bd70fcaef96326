"""The tables, as the migrations leave them. A test compares the two.

No foreign keys: on the append's path they would cost a row lock and a look-up a row, and
every reference is written by the same statement batch as what it refers to.
"""

from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql


class IdType(sa.types.TypeDecorator[UUID]):
    """A UUID: the native type on PostgreSQL, 16 bytes on SQLite."""

    impl = sa.LargeBinary(16)
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        """Picks the column type of the database."""
        if dialect.name == "postgresql":
            return dialect.type_descriptor(postgresql.UUID())
        return dialect.type_descriptor(sa.LargeBinary(16))

    def process_bind_param(self, value: UUID | None, dialect: sa.Dialect) -> Any:
        """Turns a UUID into what the driver takes."""
        return value if value is None or dialect.name == "postgresql" else value.bytes

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> UUID | None:
        """Turns what the driver gives into a UUID."""
        return UUID(bytes=value) if isinstance(value, bytes) else value


Long = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
Small = sa.SmallInteger().with_variant(sa.Integer(), "sqlite")
Name = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
"""Compared byte by byte: SQLite does so by default."""

metadata = sa.MetaData()

log = sa.Table(
    "log",
    metadata,
    sa.Column(
        "one",
        sa.Integer,
        sa.CheckConstraint("one = 1", name="log_has_one_row"),
        primary_key=True,
        autoincrement=False,
    ),
    sa.Column("log_id", IdType, nullable=False),
    # Raised by every change of a stream's retention or deletion.
    sa.Column("generation", Long, nullable=False, server_default="0"),
    # Where this incarnation goes on: PostgreSQL's system identifier and timeline, or the
    # identity of SQLite's file.
    sa.Column("system_id", sa.Text),
    sa.Column("timeline", sa.Text),
    # SQLite: 1 while a server has the file open, so that a copy without its WAL is known.
    sa.Column("served", sa.Integer, nullable=False, server_default="0"),
)

incarnations = sa.Table(
    "incarnations",
    metadata,
    sa.Column("ordinal", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("log_id", IdType, nullable=False, unique=True),
    sa.Column("first_position", Long, nullable=False),
    sa.Column("began_at", Long, nullable=False),
    sa.Column("cause", sa.Text, nullable=False),
)

categories = sa.Table(
    "categories",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("name", Name, nullable=False, unique=True),
)

types = sa.Table(
    "types",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("name", Name, nullable=False, unique=True),
)

streams = sa.Table(
    "streams",
    metadata,
    sa.Column("id", Long, primary_key=True, autoincrement=False),
    sa.Column("name", Name, nullable=False, unique=True),
    sa.Column("category_id", sa.Integer, nullable=False),
    # Versions up to here are removed for good. Appends never write it.
    sa.Column("floor_version", Long, nullable=False, server_default="0"),
    sa.Column("truncate_before", Long, nullable=False, server_default="0"),
    sa.Column("max_count", Long),
    sa.Column("max_age_us", Long),
    # 0 live, 1 deleted, 2 deleted permanently.
    sa.Column("state", Small, nullable=False, server_default="0"),
    # Versions up to here were removed by a deletion.
    sa.Column("deleted_version", Long, nullable=False, server_default="0"),
    # The content of versions up to here is erased.
    sa.Column("erased_version", Long, nullable=False, server_default="0"),
    # The log's generation at its last change of retention or deletion.
    sa.Column("changed", Long),
    sa.Index(
        "streams_changed",
        "changed",
        sqlite_where=sa.text("changed IS NOT NULL"),
        postgresql_where=sa.text("changed IS NOT NULL"),
    ),
)

# Streams with a bound on age or number, or with removed events that are not erased yet: of all
# others every event that has a record is there. A table of its own, since whether it is empty
# is asked by every read, and no statistics can make that dear.
removals = sa.Table(
    "removals",
    metadata,
    sa.Column("stream_id", Long, primary_key=True, autoincrement=False),
)

events = sa.Table(
    "events",
    metadata,
    sa.Column(
        "position",
        Long,
        sa.CheckConstraint("position > 0", name="events_from_one"),
        primary_key=True,
        autoincrement=False,
    ),
    # Microseconds since 1970; never falls as position rises.
    sa.Column("recorded_at", Long, nullable=False),
    # Both NULL: of no stream. NULLs repeat in a unique index, zeros would not.
    sa.Column("stream_id", Long),
    sa.Column("version", Long),
    sa.Column("id", IdType, nullable=False),
    sa.Column("category_id", sa.Integer),
    # 0: erased.
    sa.Column("type_id", sa.Integer, nullable=False),
    # 0: the record is a RecordedEvent as it is.
    sa.Column("format", Small, nullable=False, server_default="0"),
    # Last, so that the rest is read without it. NULL: erased.
    sa.Column("record", sa.LargeBinary),
    sa.CheckConstraint("(stream_id IS NULL) = (version IS NULL)", name="events_stream_and_version"),
    sa.Index("events_id", "id", unique=True),
    sa.Index("events_stream", "stream_id", "version", unique=True, postgresql_include=["position"]),
    sa.Index("events_type", "type_id", "position"),
    sa.Index("events_category", "category_id", "position"),
)

event_tags = sa.Table(
    "event_tags",
    metadata,
    sa.Column("tag", Name, primary_key=True),
    sa.Column("position", Long, primary_key=True, autoincrement=False),
    sqlite_with_rowid=False,
)

OWN_TABLES = frozenset(metadata.tables)
