"""The one way into the log: group commit.

Callers, on the event loop, put appends into a queue. One thread takes whatever waits,
decides each append in turn against the state that the earlier ones leave, inserts the
winners together, commits once, and hands all answers back to the loop. There is no
timer: while one batch commits, the next collects.

An error of the database ends the batch: nothing is known of its appends but what a new
transaction finds, under the lock, by their event ids. So a batch that failed is simply
decided again; what its first attempt did write comes out as a repeat.

`close` lets the thread finish what is queued.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias
from uuid import UUID

from treering_server.core.conditions import Looked, look, not_looked
from treering_server.core.decide import BatchState, LookAgain, decide
from treering_server.core.errors import (
    OutcomeUnknown,
    Overloaded,
    Refusal,
    ShuttingDown,
    StorageUnavailable,
)
from treering_server.core.failpoints import reached
from treering_server.core.model import Append, Appended
from treering_server.core.queue import FairQueue
from treering_server.core.record import EnvelopeEncoder, parse
from treering_server.core.removal import Rule
from treering_server.core.storage import (
    CommitUnknown,
    Incarnation,
    LockedState,
    NewRecord,
    Storage,
    WriteTransaction,
)
from treering_server.core.tail import Tail
from treering_server.core.turns import Turns, caller

BATCH_EVENTS = 10_000
"""At least one append goes into a batch, however large."""
BATCH_BYTES = 8 * 1024 * 1024
QUEUE_BYTES = 64 * 1024 * 1024
"""What may wait; more is refused."""
TAIL_EVENTS = 20_000
"""Recent events that append conditions are decided on in memory."""
FETCHED_EVENTS, FETCHED_BYTES = 10_000, 8 * 1024 * 1024
"""What may be read under the lock of what other servers wrote."""
ANSWERS = 256
"""Appends answered at a time, so that a large batch holds up nobody else for long."""
LOCK_SECONDS = 5.0
"""How long one attempt waits for the append lock."""
PATIENCE_SECONDS = 5.0
"""How long appends are tried again while the database is away."""
UNKNOWN_PATIENCE_SECONDS = 15.0
"""The same once a commit of theirs had no known end: the answer is worth more."""
STUCK_SECONDS = 5.0
"""An attempt that takes longer waits for something that may never come."""
LOOKS = 3
"""Appends whose conditions are looked at in the database at a time: the rest of its
connections is for reads."""
LOOK_WAIT_SECONDS = 5.0
"""How long an append waits for that."""
PROBE_SECONDS = 0.5
"""How often the append lock is tried while it can't be had and nobody appends."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.02, 0.5

Outcome: TypeAlias = Appended | Exception


@dataclass(frozen=True, slots=True)
class Committed:
    """What a batch has added to the log."""

    log_id: UUID
    generation: int
    """Of the log, when it was added."""
    records: Sequence[NewRecord]
    rules: Mapping[str, tuple[Rule, int]]
    """Of the streams written to, what is removed of those that have a moving rule, and the last
    version that they were given."""


class AppendCall:
    """The appends of one RPC, which are recorded in the order sent or not at all: once one
    fails for a reason that may pass, those behind it must not be recorded."""

    def __init__(self) -> None:
        """Nothing has failed yet. Must be called where the call is answered."""
        self.caller = caller.get()
        self.broken = False


class DeadlinePassed(Exception):
    """The caller's deadline passed while the append waited; nothing was written."""


@dataclass(slots=True, eq=False)
class _Waiting:
    append: Append
    call: AppendCall
    deadline: float
    """On the monotonic clock."""
    answer: "asyncio.Future[Appended]"
    looked: Sequence[Looked]
    looked_under: UUID
    """The log's id before its conditions were looked at."""
    attempted: bool = False
    """A commit that it was part of had no known end."""


def _deadline(seconds: float | None) -> float:
    """On the monotonic clock, so many seconds from now."""
    return float("inf") if seconds is None else time.monotonic() + seconds


class _TooFarBehind(Exception):
    """Other servers wrote more than should be read under the lock."""


class Writer:
    """Records appends in the order in which they are submitted."""

    def __init__(
        self,
        storage: Storage,
        published: Callable[[Committed], None],
        seen_head: Callable[[], int],
        *,
        queue_bytes: int = QUEUE_BYTES,
    ) -> None:
        """Starts the thread. Must be called on the event loop.

        Args:
            storage: Where to.
            published: Called on the loop with what was committed, before the answers.
            seen_head: The last position that this server knows, whoever wrote it.
            queue_bytes: Appends beyond this are refused as `Overloaded`.
        """
        self._storage = storage
        self._published = published
        self._seen_head = seen_head
        self._loop = asyncio.get_running_loop()
        self._looking = Turns(LOOKS)
        self._room = asyncio.Event()
        self._lock = threading.Lock()
        """Guards the queue, and whether it closes."""
        self._changed = threading.Condition(self._lock)
        self._queue: FairQueue[_Waiting] = FairQueue(queue_bytes)
        self._closing = False
        self._encoder = EnvelopeEncoder()
        self._incarnations: Sequence[Incarnation] = storage.incarnations()
        self._committed = storage.head().position
        self._tail = Tail(self._committed)
        self._generation = -1
        self._inserting = False
        self._available = threading.Event()
        self._unavailable_because = "the append lock was not taken yet"
        self._attempt_began = float("inf")
        # A commit that waits for a standby that is away must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._thread.start()

    @property
    def available(self) -> bool:
        """Whether the last attempt succeeded, and none goes on for too long."""
        return self._available.is_set() and not self._is_stuck

    @property
    def _is_stuck(self) -> bool:
        return time.monotonic() - self._attempt_began > STUCK_SECONDS

    @property
    def unavailable_because(self) -> str:
        """Why appends can't be recorded now, for people; empty if they can."""
        if self._is_stuck:
            return "a commit does not end: is a synchronous standby away?"
        return self._unavailable_because

    def wait_until_available(self, seconds: float) -> bool:
        """Waits, in a thread of the caller's, for the first success. False: in vain."""
        return self._available.wait(seconds)

    async def submit(
        self, append: Append, call: AppendCall, seconds: float | None
    ) -> "asyncio.Future[Appended]":
        """Queues an append behind those submitted before; the future has its outcome.

        Args:
            append: What to record.
            call: What it belongs to.
            seconds: Until the caller's deadline; None: none.

        Raises:
            Overloaded: Too much waits already.
            ShuttingDown: The server is going away.
            StorageUnavailable: Its conditions could not be looked at.
        """
        if not self.must_look(append):
            (answer,) = self.submit_all([append], call, seconds)
            return answer
        waiting = self._waiting(append, call, _deadline(seconds))
        size = append.queued_bytes
        with self._lock:
            self._admit(call, size)
        try:
            waiting.looked = await self._look(append, waiting.looked)
            with self._lock:
                if self._closing:
                    raise ShuttingDown
                self._queue.put(call.caller, size, waiting)
                self._changed.notify()
        except BaseException:
            with self._lock:
                self._queue.leave(call.caller, size)
            raise
        return waiting.answer

    def submit_all(
        self, appends: Sequence[Append], call: AppendCall, seconds: float | None
    ) -> "list[asyncio.Future[Appended]]":
        """Queues appends, of which none must be looked at, at once: as `submit`, for all of them
        or for none."""
        deadline = _deadline(seconds)
        waiting = [self._waiting(append, call, deadline) for append in appends]
        sizes = [append.queued_bytes for append in appends]
        put, who = self._queue.put, call.caller
        with self._lock:
            self._admit(call, sum(sizes))
            for size, each in zip(sizes, waiting, strict=True):
                put(who, size, each)
            self._changed.notify()
        return [each.answer for each in waiting]

    def _waiting(self, append: Append, call: AppendCall, deadline: float) -> "_Waiting":
        answer = self._loop.create_future()
        looked = not_looked(append.conditions)
        return _Waiting(append, call, deadline, answer, looked, self._storage.log_id)

    def _admit(self, call: AppendCall, size: int) -> None:
        if self._closing:
            raise ShuttingDown
        if not self._queue.admit(call.caller, size):
            raise Overloaded("too many appends wait to be recorded")

    def must_look(self, append: Append) -> bool:
        """Whether an append's conditions reach back so far that the database must be asked before
        it is decided."""
        if not append.conditions:
            return False
        seen = max(self._committed, self._seen_head())
        base = self._tail.base
        return seen - self._tail.head > FETCHED_EVENTS or any(
            condition.after_position < base for condition in append.conditions
        )

    async def _look(self, append: Append, known: Sequence[Looked]) -> Sequence[Looked]:
        """What more is known of an append's conditions before it is decided."""
        try:
            async with asyncio.timeout(LOOK_WAIT_SECONDS) as waiting, self._looking:
                waiting.reschedule(None)
                return await asyncio.to_thread(look, self._storage, append.conditions, known)
        except TimeoutError:
            raise Overloaded("too many append conditions wait to be looked at") from None

    async def room(self, call: AppendCall) -> None:
        """Waits until a call that can slow down need not: until half of what may wait, or of
        its caller's share of that, is free."""
        while True:
            with self._lock:
                if self._queue.has_room(call.caller):
                    return
                self._room.clear()
            await self._room.wait()

    async def close(self, seconds: float) -> bool:
        """Records what is queued, then ends the thread. Later appends are refused.

        Returns:
            Whether that was done in time; the outcome of what still waits is unknown if not.
        """
        with self._changed:
            self._closing = True
            self._changed.notify()
        await asyncio.to_thread(self._thread.join, seconds)
        return not self._thread.is_alive()

    # What follows runs in the writer's thread.

    def _run(self) -> None:
        self._probe()
        while True:
            batch = self._collect()
            if batch:
                try:
                    self._record(batch)
                except Exception as error:  # noqa: BLE001 - without its thread nobody is answered
                    self._give_up(batch, error)
            elif self._closing:
                return
            else:
                self._probe()

    def _probe(self) -> None:
        """Takes the append lock for nothing, to see whether that can be done."""
        try:
            with self._storage.write(LOCK_SECONDS):
                self._note_available()
        except Exception as error:  # noqa: BLE001 - whatever it is, the next may do better
            self._note_unavailable(error)

    def _note_available(self) -> None:
        self._unavailable_because = ""
        self._available.set()

    def _note_unavailable(self, error: Exception) -> None:
        self._unavailable_because = str(error)
        self._available.clear()

    def _collect(self) -> list[_Waiting]:
        """What waits, as much as one batch may hold; nothing when all is over, or when it is
        time to see whether the log can be written to again."""
        queue = self._queue
        batch: list[_Waiting] = []
        events = size = 0
        with self._changed:
            while not queue and not self._closing:
                known = self._available.is_set()
                if not self._changed.wait(None if known else PROBE_SECONDS):
                    return []
            while queue and (
                not batch or (events < BATCH_EVENTS and size + queue.next_size <= BATCH_BYTES)
            ):
                size += queue.next_size
                waiting = queue.take()
                batch.append(waiting)
                events += waiting.append.event_count
            waited_for = not self._room.is_set()
        if waited_for:
            self._loop.call_soon_threadsafe(self._room.set)
        return batch

    def _record(self, batch: Sequence[_Waiting], began: float | None = None) -> None:
        """Sees a batch through, whatever the database does."""
        began = began or time.monotonic()
        pause = FIRST_PAUSE_SECONDS
        behind = False
        while batch := self._still_wanted(batch):
            try:
                if behind:
                    self._look_on(batch)
                batch = self._attempt(batch)
                behind = bool(batch)
            except _TooFarBehind:
                behind = True
            except (StorageUnavailable, CommitUnknown) as error:
                self._note_unavailable(error)
                if self._inserting and len(batch) > 1:
                    break
                if time.monotonic() - began > self._patience(batch):
                    self._give_up(batch, error)
                    return
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            except Refusal as refusal:
                self._note_unavailable(refusal)
                self._give_up(batch, refusal.alone())
                return
            except Exception as error:  # noqa: BLE001 - told to the caller
                if len(batch) > 1:
                    break
                self._give_up(batch, error)
                return
        # A statement that the database refuses or dies of, or a defect of ours: in smaller
        # batches the append that is to blame fails alone.
        half = len(batch) // 2
        for some in (batch[:half], batch[half:]):
            if some:
                self._record(some, began)

    def _attempt(self, batch: Sequence[_Waiting]) -> Sequence[_Waiting]:
        """Decides, inserts, commits and answers a batch.

        Returns:
            What of it is left, to be looked at again before it is decided.
        """
        self._inserting = False
        self._attempt_began = time.monotonic()
        outcomes: list[Outcome] = []
        try:
            reached("before_lock")
            with self._storage.write(LOCK_SECONDS) as transaction:
                reached("after_lock")
                state = self._locked_state(transaction, batch)
                reached("after_state")
                now = time.time_ns() // 1000
                outcomes = self._outcomes(state, batch, now)
                if state.records:
                    self._inserting = True
                    transaction.insert(state.records)
                    reached("after_insert")
                    self._inserting = False
                if any(isinstance(outcome, Appended) for outcome in outcomes):
                    reached("before_commit")
                    transaction.commit()
                    reached("after_commit")
        except BaseException as error:
            # The tail ran ahead of what is committed.
            self._tail = Tail(self._committed)
            if isinstance(error, CommitUnknown):
                for each, outcome in zip(batch, outcomes, strict=False):
                    # A repeat, or what is refused, was not going to write anything.
                    if isinstance(outcome, Appended) and not outcome.duplicate:
                        each.attempted = True
            raise
        finally:
            self._attempt_began = float("inf")
        self._note_available()
        self._committed = state.head
        if len(self._tail) > TAIL_EVENTS:
            self._tail.trim(len(self._tail) - TAIL_EVENTS)
        decided, left = batch[: len(outcomes)], batch[len(outcomes) :]
        answers = [(each.answer, outcome) for each, outcome in zip(decided, outcomes, strict=True)]
        committed = None
        if state.records:
            committed = Committed(
                state.log_id, self._generation, state.records, state.moving_rules()
            )
        self._loop.call_soon_threadsafe(self._deliver, answers, committed)
        return left

    def _outcomes(self, state: BatchState, batch: Sequence[_Waiting], now: int) -> list[Outcome]:
        """What becomes of a batch, as far as it can be decided now."""
        outcomes = []
        for each in batch:
            try:
                outcomes.append(self._outcome(state, each, now))
            except LookAgain:
                each.looked = not_looked(each.append.conditions)
                break
        return outcomes

    def _locked_state(self, transaction: WriteTransaction, batch: Sequence[_Waiting]) -> BatchState:
        """What the batch is decided on, read under the lock."""
        appends = [each.append for each in batch]
        streams = {part.stream for append in appends for part in append.streams}
        met = [looked.match for each in batch for looked in each.looked]
        streams |= {each.terms.stream for each in met if each is not None} - {""}
        ids = {event.id for append in appends for _, event in append.placed_events()}
        locked = transaction.state(streams, ids)
        self._committed = locked.head.position
        self._note_changes(locked, batch)
        for each in batch:
            # Under the lock no earlier transaction of ours is alive any more: what is not there
            # now was not written.
            if each.attempted and not any(
                event.id in locked.ids for _, event in each.append.placed_events()
            ):
                each.attempted = False
        self._cover(transaction, batch, locked.head.position)
        self._learn_rules(locked)
        return BatchState(locked, self._incarnations, self._tail)

    def _note_changes(self, locked: LockedState, batch: Sequence[_Waiting]) -> None:
        """Forgets what is no longer so: events were removed, or the log lost its end."""
        if self._incarnations[-1].log_id != locked.head.log_id:
            self._incarnations = self._storage.incarnations()
            self._generation = -1
        if self._generation != locked.head.generation:
            self._generation = locked.head.generation
            self._tail = Tail(self._committed)
        for each in batch:
            if each.looked_under != locked.head.log_id:
                each.looked_under = locked.head.log_id
                each.looked = not_looked(each.append.conditions)

    def _learn_rules(self, locked: LockedState) -> None:
        for name, stream in locked.streams.items():
            if stream.rule.is_moving:
                # Not more events than a batch holds, or were read, come next.
                until = self._tail.head + max(BATCH_EVENTS, FETCHED_EVENTS)
                self._tail.set_rule(name, stream.rule, stream.last_version, until)

    def _cover(self, transaction: WriteTransaction, batch: Sequence[_Waiting], head: int) -> None:
        """Brings the tail to the head, and back to where the conditions were looked at.

        Raises:
            _TooFarBehind: That is too much to read under the lock.
        """
        open_looks = (
            looked.to
            for each in batch
            for looked in each.looked
            if looked.match is None and not looked.too_costly
        )
        needed = min(open_looks, default=head)
        needed = min(needed, head)
        if not self._tail.base <= needed <= self._tail.head <= head:
            self._tail = Tail(needed)
        if head - self._tail.head > FETCHED_EVENTS:
            raise _TooFarBehind
        if self._tail.head < head:
            others = transaction.records(self._tail.head, head, max_bytes=FETCHED_BYTES)
            found = [None if record is None else parse(record) for _, _, record in others]
            if self._generation:
                streams = {each.terms.stream for each in found if each is not None}
                self._learn_rules(transaction.state(streams - {""}, ()))
            self._tail.extend([None if each is None else each.in_tail for each in found])
            if self._tail.head < head:
                raise _TooFarBehind

    def _look_on(self, batch: Sequence[_Waiting]) -> None:
        """Looks at the conditions up to the head, outside of the lock."""
        for each in batch:
            if each.append.conditions:
                each.looked = look(self._storage, each.append.conditions, each.looked)

    def _outcome(self, state: BatchState, waiting: _Waiting, now: int) -> Outcome:
        try:
            appended = decide(state, waiting.append, waiting.looked, now, self._encoder)
        except Refusal as refusal:
            return refusal.alone()
        # What its own first attempt wrote is no repeat to the caller.
        return appended._replace(duplicate=False) if waiting.attempted else appended

    def _still_wanted(self, batch: Sequence[_Waiting]) -> list[_Waiting]:
        """Drops what nobody waits for, before any of it is written."""
        wanted = []
        now = time.monotonic()
        for each in batch:
            if each.answer.cancelled() or each.deadline < now:
                each.call.broken = True
            if each.call.broken:
                late = OutcomeUnknown() if each.attempted else DeadlinePassed()
                self._loop.call_soon_threadsafe(self._deliver, [(each.answer, late)], None)
            else:
                wanted.append(each)
        return wanted

    @staticmethod
    def _patience(batch: Sequence[_Waiting]) -> float:
        unknown = any(each.attempted for each in batch)
        return UNKNOWN_PATIENCE_SECONDS if unknown else PATIENCE_SECONDS

    def _give_up(self, batch: Sequence[_Waiting], error: Exception) -> None:
        """Answers a batch with why it could not be recorded."""
        if isinstance(error, CommitUnknown):
            error = OutcomeUnknown()
        answers: list[tuple[asyncio.Future[Appended], Outcome]] = []
        for each in batch:
            each.call.broken = True
            answers.append((each.answer, OutcomeUnknown() if each.attempted else error))
        self._loop.call_soon_threadsafe(self._deliver, answers, None)

    # What follows runs on the loop again.

    def _deliver(
        self,
        answers: Sequence[tuple["asyncio.Future[Appended]", Outcome]],
        committed: Committed | None,
    ) -> None:
        if committed is not None:
            self._published(committed)
        for answer, outcome in answers[:ANSWERS]:
            if answer.done():
                continue
            if isinstance(outcome, Appended):
                answer.set_result(outcome)
            else:
                answer.set_exception(outcome)
        if len(answers) > ANSWERS:
            self._loop.call_soon(self._deliver, answers[ANSWERS:], None)
