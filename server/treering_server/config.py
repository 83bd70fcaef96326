"""Settings, by flag and by `TREERING_*` variable of the same name."""

from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from treering_server.core.feed import POLL_SECONDS, RING_BYTES
from treering_server.core.limits import Limits
from treering_server.core.writer import QUEUE_BYTES

DEFAULTS = Limits()


class Settings(BaseSettings):
    """How a server runs. Immutable once it does."""

    model_config = SettingsConfigDict(env_prefix="TREERING_", frozen=True, extra="forbid")

    database_url: str = Field(
        default="sqlite:///treering.db",
        description="Where the log is kept: sqlite:///FILE or postgresql://USER@HOST/DATABASE.",
    )
    listen: str = Field(
        default="127.0.0.1:7464",
        description="Where to listen: HOST:PORT (port 0: any that is free) or unix:PATH.",
    )
    migrate: bool = Field(
        default=True,
        description="Bring the database up to date at start; otherwise refuse to start.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least severe log lines that are written."
    )
    log_format: Literal["auto", "text", "json"] = Field(
        default="auto", description="Log lines for people or for programs; auto: by terminal."
    )
    readers: int = Field(
        default=8, ge=1, le=256, description="Database connections that read at a time."
    )
    notify: bool = Field(
        default=True,
        description="Tell other servers of new events by PostgreSQL's NOTIFY, beside polling.",
    )
    listen_url: str = Field(
        default="",
        description="PostgreSQL URL for LISTEN where database_url goes through a pooler.",
    )
    poll_seconds: float = Field(
        default=POLL_SECONDS,
        ge=0.01,
        le=10,
        description="How often the head is looked at for other servers' events.",
    )
    stop_seconds: float = Field(
        default=5.0, ge=0, description="How long calls may go on after a signal to stop."
    )
    feed_bytes: int = Field(
        default=RING_BYTES, ge=1, description="Memory for the most recent events."
    )
    queue_bytes: int = Field(
        default=QUEUE_BYTES, ge=1, description="Memory for appends that wait to be recorded."
    )
    max_event_data_bytes: int = Field(
        default=DEFAULTS.event_data_bytes, ge=1, description="Data of one event."
    )
    max_append_bytes: int = Field(
        default=DEFAULTS.append_bytes, ge=1, description="One encoded AppendRequest."
    )
    max_append_events: int = Field(
        default=DEFAULTS.append_events, ge=1, description="Events in one append."
    )
    max_append_streams: int = Field(
        default=DEFAULTS.append_streams, ge=1, description="Distinct streams in one append."
    )
    max_append_conditions: int = Field(
        default=DEFAULTS.append_conditions, ge=1, description="Conditions of one append."
    )
    max_event_tags: int = Field(
        default=DEFAULTS.event_tags, ge=1, description="Distinct tags of one event."
    )
    max_metadata_bytes: int = Field(
        default=DEFAULTS.metadata_bytes, ge=1, description="Metadata of one event."
    )
    max_query_items: int = Field(
        default=DEFAULTS.query_items, ge=1, description="Items of one query."
    )
    max_query_strings: int = Field(
        default=DEFAULTS.query_strings, ge=1, description="Strings over all queries of a request."
    )
    max_subscriptions: int = Field(
        default=DEFAULTS.subscriptions, ge=1, description="Open subscriptions of this server."
    )
    max_connections: int = Field(
        default=10_000, ge=1, description="Open connections, as far as open files allow."
    )

    @property
    def limits(self) -> Limits:
        """What requests are held to."""
        return Limits(
            event_data_bytes=self.max_event_data_bytes,
            append_bytes=self.max_append_bytes,
            append_events=self.max_append_events,
            append_streams=self.max_append_streams,
            append_conditions=self.max_append_conditions,
            event_tags=self.max_event_tags,
            metadata_bytes=self.max_metadata_bytes,
            query_items=self.max_query_items,
            query_strings=self.max_query_strings,
            subscriptions=self.max_subscriptions,
        )
