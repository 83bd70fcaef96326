"""Which events of a stream are removed: always those up to some version.

The same rule stands in `storage/removal.py` for what is read from the database; here it is
for what is kept in memory. Removed events keep position, stream, version and id.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rule:
    """What of a stream is removed."""

    floor_version: int = 0
    """Versions up to here are removed for good."""
    max_count: int | None = None
    """Of the rest, all but so many of the newest."""
    max_age: int | None = None
    """Of the rest, what was recorded longer ago than that, in microseconds."""

    @property
    def is_moving(self) -> bool:
        """Whether more is removed as the stream or time goes on."""
        return self.max_count is not None or self.max_age is not None

    def removes(self, version: int, recorded_at: int, *, last_version: int, now: int) -> bool:
        """Whether an event is removed, of a stream at a version, at a time."""
        return (
            version <= self.floor_version
            or (self.max_count is not None and version <= last_version - self.max_count)
            or (self.max_age is not None and recorded_at < now - self.max_age)
        )


NOTHING = Rule()
"""Nothing is removed."""


@dataclass(frozen=True, slots=True)
class RuleChange:
    """A stream's retention or deletion has changed."""

    stream: str
    rule: Rule
    last_version: int
    """The last version that it was ever given."""
    is_permanently_deleted: bool
    generation: int
    """Of the log, from the change on."""
