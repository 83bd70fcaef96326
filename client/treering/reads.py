"""What a read tells besides its events."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ReadState:
    """Which state of the log a read shows."""

    head_position: int
    """Position of the last event of that state: what an append condition goes by."""
    stream_version: int
    """For a stream: its version in that state. 0: no such stream, or deleted."""
    log_id: str
