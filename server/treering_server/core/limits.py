"""How much one caller may ask for. Each limit is refused by its name, with what was given."""

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits that requests are held to, with their defaults."""

    event_data_bytes: int = 1024 * 1024
    """Bytes of one event's data."""
    append_bytes: int = 4 * 1024 * 1024
    """Bytes of one encoded `AppendRequest`."""
    append_events: int = 10_000
    """Events in one append."""
    append_streams: int = 1_000
    """Distinct streams in one append, those that are only checked included."""
    append_conditions: int = 128
    """Conditions of one append."""
    name_bytes: int = 255
    """Bytes of UTF-8 in the name of a stream, a type, a tag or a content type."""
    event_tags: int = 64
    """Distinct tags of one event."""
    metadata_bytes: int = 64 * 1024
    """Bytes of UTF-8 in one event's metadata, keys and values together."""
    query_items: int = 128
    """Items of one query."""
    query_strings: int = 1_024
    """Strings over all queries of one request, repeated ones counted each time."""
    subscriptions: int = 10_000
    """Open subscriptions of one server."""

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) <= 0:
                raise ValueError(f"{field.name} must be at least 1")
        # An event that may be as large as it may be, but never be appended, is a setting that
        # lies: what an event may hold must fit into one append.
        _check_order("event_data_bytes", self.event_data_bytes, "append_bytes", self.append_bytes)
        _check_order("metadata_bytes", self.metadata_bytes, "append_bytes", self.append_bytes)
        _check_order("query_items", self.query_items, "query_strings", self.query_strings + 1)
        # Names are keys of database indexes and are repeated in trailers, which both have
        # no room for much more.
        _check_order("name_bytes", self.name_bytes, "its bound", 1_024 + 1)


def _check_order(less_name: str, less: int, more_name: str, more: int) -> None:
    if less >= more:
        raise ValueError(f"{less_name} ({less}) must be less than {more_name} ({more})")
