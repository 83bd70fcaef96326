"""Changes of streams: how long their events are kept, and their deletion.

A change takes the append lock, like an append, and raises the log's generation, by which
every server notices it. The verdicts are pure functions; all changes can be repeated.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

from treering_server.core.errors import (
    InvalidRequest,
    NotFound,
    OutcomeUnknown,
    Overloaded,
    StorageUnavailable,
    StreamDeleted,
    VersionConflict,
    Violation,
)
from treering_server.core.model import (
    FOR_EVER,
    DeleteStream,
    DeletionState,
    Stream,
    UpdateStream,
)
from treering_server.core.removal import Rule, RuleChange
from treering_server.core.storage import CommitUnknown, Storage

LOCK_SECONDS = 5.0
"""How long one attempt waits for the append lock."""
PATIENCE_SECONDS = 5.0
"""How long a change is tried again while the database is away."""
PAUSE_SECONDS = 0.1
MOST_WAITING = 1_000
"""Changes that wait for their turn; more are refused."""

Verdict: TypeAlias = tuple[Stream, int | None]
"""What the stream is like then, and the version up to which it is removed for good; None: nothing
changes."""


def update(before: Stream | None, asked: UpdateStream) -> Verdict:
    """Sets a retention. What the one before excludes is removed for good.

    Raises:
        NotFound, StreamDeleted, InvalidRequest: See `UpdateStreamRequest`.
    """
    if before is not None and before.deletion == "permanent":
        raise StreamDeleted(asked.stream)
    if before is None or before.deletion == "deleted":
        raise NotFound("stream", asked.stream)
    truncate_before = asked.retention.truncate_before
    if truncate_before > before.version + 1:
        raise InvalidRequest(
            (
                Violation(
                    "retention.truncate_before",
                    f"must be at most {before.version + 1}, one more than the version",
                ),
            )
        )
    truncate_before = max(truncate_before, before.retention.truncate_before)
    removed = (before.first_version or before.next_version) - 1
    retention = replace(asked.retention, truncate_before=truncate_before)
    return replace(before, retention=retention), max(removed, truncate_before - 1)


def delete(before: Stream | None, asked: DeleteStream) -> Verdict:
    """Deletes a stream. Repeating it changes nothing.

    Raises:
        VersionConflict: The expectation is not met.
    """
    deletion: DeletionState = "permanent" if asked.permanent else "deleted"
    if before is None:
        before = Stream(asked.stream, 0, 0, 1, 0, "live", FOR_EVER, 0)
        _check(asked, before.version)
        if not asked.permanent:
            return before, None
    elif before.deletion == "live":
        _check(asked, before.version)
    else:
        _check(asked, 0, before.deleted_version)
        if deletion == before.deletion or not asked.permanent:
            return before, None
    last = before.next_version - 1
    after = replace(
        before,
        version=0,
        first_version=0,
        deletion=deletion,
        retention=FOR_EVER,
        deleted_version=last,
    )
    return after, last


def _check(asked: DeleteStream, *versions: int) -> None:
    if asked.expectation is not None and not any(map(asked.expectation.holds, versions)):
        raise VersionConflict(asked.stream, asked.expectation, versions[0])


class StreamChanges:
    """Changes streams, in the loop's default threads."""

    def __init__(self, storage: Storage, changed: Callable[[RuleChange, int], None]) -> None:
        """Changes what a storage holds.

        Args:
            storage: The storage.
            changed: Called on the loop with each change, and the head when it was made.
        """
        self._storage = storage
        self._changed = changed
        # All take one lock anyway, and must not keep reads from the threads.
        self._turn = asyncio.Semaphore(1)
        self._waiting = 0

    async def update(self, asked: UpdateStream) -> Stream:
        """Sets a stream's retention.

        Raises:
            Refusal: Why not.
        """
        return await self._change(asked.stream, lambda before: update(before, asked))

    async def delete(self, asked: DeleteStream) -> Stream:
        """Deletes a stream.

        Raises:
            Refusal: Why not.
        """
        return await self._change(asked.stream, lambda before: delete(before, asked))

    async def _change(self, stream: str, decide: Callable[[Stream | None], Verdict]) -> Stream:
        if self._waiting >= MOST_WAITING:
            raise Overloaded("too many changes of streams wait")
        self._waiting += 1
        try:
            async with self._turn:
                after, change, head = await asyncio.to_thread(self._record, stream, decide)
        finally:
            self._waiting -= 1
        if change is not None:
            self._changed(change, head)
        return after

    def _record(
        self, stream: str, decide: Callable[[Stream | None], Verdict]
    ) -> tuple[Stream, RuleChange | None, int]:
        """Sees a change through: repeated after an unknown commit, it changes nothing more."""
        give_up = time.monotonic() + PATIENCE_SECONDS
        is_unknown = False
        while True:
            try:
                return self._attempt(stream, decide, is_unknown=is_unknown)
            except (CommitUnknown, StorageUnavailable) as error:
                is_unknown = is_unknown or isinstance(error, CommitUnknown)
                if time.monotonic() > give_up:
                    if is_unknown:
                        raise OutcomeUnknown from None
                    raise
            time.sleep(PAUSE_SECONDS)

    def _attempt(
        self, stream: str, decide: Callable[[Stream | None], Verdict], *, is_unknown: bool
    ) -> tuple[Stream, RuleChange | None, int]:
        with self._storage.write(LOCK_SECONDS) as transaction:
            head = transaction.state((), ()).head
            # As the next append would judge it.
            now = max(time.time_ns() // 1000, head.recorded_at)
            after, floor_version = decide(transaction.stream(stream, now))
            change = None
            if floor_version is not None:
                transaction.change_stream(after, floor_version)
                after = transaction.stream(stream, now) or after
                change = _rule_change(after, floor_version, head.generation + 1)
            elif is_unknown:
                # An attempt before may have made the change.
                change = _rule_change(after, after.deleted_version, head.generation)
            # Also where nothing changes: what the answer rests on must be there to stay.
            transaction.commit()
        return after, change, head.position


def _rule_change(stream: Stream, floor_version: int, generation: int) -> RuleChange:
    return RuleChange(
        stream.name,
        Rule(floor_version, stream.retention.max_count, stream.retention.max_age),
        stream.next_version - 1,
        stream.deletion == "permanent",
        generation,
    )
