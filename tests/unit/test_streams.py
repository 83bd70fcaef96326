"""Changes of streams: what becomes of retention and deletion, and how they are seen through."""

from contextlib import contextmanager
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plans.logs import make_event, opened, write
from treering_server.core import streams as streams_module
from treering_server.core.errors import (
    InvalidRequest,
    NotFound,
    OutcomeUnknown,
    StorageUnavailable,
    StreamDeleted,
    VersionConflict,
)
from treering_server.core.model import (
    FOR_EVER,
    DeleteStream,
    ExpectedExists,
    ExpectedVersion,
    Retention,
    Stream,
    UpdateStream,
)
from treering_server.core.removal import Rule, RuleChange
from treering_server.core.storage import CommitUnknown
from treering_server.core.streams import StreamChanges, delete, update


def stream(version=5, first_version=1, **fields):
    """One that lives."""
    known = Stream(
        name="a",
        version=version,
        first_version=first_version,
        next_version=version + 1,
        recorded_at=1,
        deletion="live",
        retention=FOR_EVER,
        deleted_version=0,
    )
    return replace(known, **fields)


DELETED = stream(0, 0, next_version=6, deletion="deleted", deleted_version=5)
PERMANENT = replace(DELETED, deletion="permanent")
NEVER_WRITTEN = stream(0, 0, next_version=1, deletion="permanent", recorded_at=0)


# --- retention


def kept(before, **retention):
    return update(before, UpdateStream("a", Retention(**retention)))


@pytest.mark.parametrize(
    ("before", "asked", "retention", "floor"),
    [
        (stream(), {}, FOR_EVER, 0),
        (stream(), {"max_count": 2}, Retention(max_count=2), 0),
        (stream(), {"max_age": 1}, Retention(max_age=1), 0),
        (stream(), {"truncate_before": 1}, Retention(truncate_before=1), 0),
        (stream(), {"truncate_before": 3}, Retention(truncate_before=3), 2),
        (stream(), {"truncate_before": 6}, Retention(truncate_before=6), 5),
        # What was excluded before, stays removed, whatever is asked for now.
        (stream(first_version=4), {}, FOR_EVER, 3),
        (
            stream(first_version=4, retention=Retention(max_count=2)),
            {"max_age": 7, "truncate_before": 2},
            Retention(max_age=7, truncate_before=2),
            3,
        ),
        (stream(first_version=0, retention=Retention(max_age=1)), {}, FOR_EVER, 5),
        (
            stream(first_version=3, retention=Retention(truncate_before=3)),
            {"max_count": 9},
            Retention(max_count=9, truncate_before=3),
            2,
        ),
        (
            stream(first_version=3, retention=Retention(truncate_before=3)),
            {"truncate_before": 2},
            Retention(truncate_before=3),
            2,
        ),
        # It may be all that a deletion left, and more was recorded since.
        (stream(first_version=4, deleted_version=3), {}, FOR_EVER, 3),
    ],
    ids=str,
)
def test_a_retention_is_replaced_and_what_the_one_before_excludes_is_gone(
    before, asked, retention, floor
):
    assert kept(before, **asked) == (replace(before, retention=retention), floor)


def test_only_what_lives_has_a_retention():
    for unknown in (None, DELETED):
        with pytest.raises(NotFound) as refusal:
            kept(unknown, max_count=1)
        assert (refusal.value.what, refusal.value.name) == ("stream", "a")
    for gone in (PERMANENT, NEVER_WRITTEN):
        with pytest.raises(StreamDeleted) as refused:
            kept(gone, max_count=1)
        assert refused.value.stream == "a"


def test_no_more_is_truncated_than_there_is():
    with pytest.raises(InvalidRequest) as refusal:
        kept(stream(), truncate_before=7)
    [violation] = refusal.value.violations
    assert violation.field == "retention.truncate_before"
    assert "6" in violation.description
    # That it is deleted is told first.
    with pytest.raises(NotFound):
        kept(DELETED, truncate_before=99)


@given(
    st.integers(0, 5),
    st.lists(
        st.builds(
            Retention,
            st.none() | st.integers(1, 9),
            st.none() | st.integers(1, 9),
            st.integers(0, 6),
        ),
        max_size=4,
    ),
)
def test_neither_what_is_removed_nor_truncate_before_ever_goes_down(removed, retentions):
    before = stream(first_version=removed + 1 if removed < 5 else 0)
    for retention in retentions:
        after, floor = update(before, UpdateStream("a", retention))
        assert removed <= floor <= 5
        assert after.retention.truncate_before >= before.retention.truncate_before
        assert after.retention.truncate_before >= retention.truncate_before
        assert floor >= after.retention.truncate_before - 1
        assert replace(after.retention, truncate_before=0) == replace(retention, truncate_before=0)
        removed = floor
        before = replace(after, first_version=floor + 1 if floor < 5 else 0)


# --- deletion


def deleted(before, expectation=None, *, permanent=False):
    return delete(before, DeleteStream("a", expectation, permanent))


@pytest.mark.parametrize("before", [stream(), stream(retention=Retention(1, 2, 3))], ids=str)
@pytest.mark.parametrize("permanent", [False, True])
def test_a_deletion_removes_all_of_a_stream_and_its_retention(before, permanent):
    assert deleted(before, permanent=permanent) == (PERMANENT if permanent else DELETED, 5)


def test_what_was_written_after_a_deletion_is_deleted_as_well():
    again = stream(7, first_version=6, deleted_version=5)
    after, floor = deleted(again)
    assert (after.deletion, after.deleted_version, after.next_version, floor) == (
        "deleted",
        7,
        8,
        7,
    )


@pytest.mark.parametrize("before", [DELETED, PERMANENT, NEVER_WRITTEN], ids=str)
def test_a_repeated_deletion_changes_nothing(before):
    assert deleted(before) == (before, None)
    if before.deletion == "permanent":
        assert deleted(before, permanent=True) == (before, None)


def test_a_deletion_can_be_made_permanent():
    assert deleted(DELETED, permanent=True) == (PERMANENT, 5)


def test_a_name_that_was_never_written_to():
    nothing = stream(0, 0, next_version=1, recorded_at=0)
    assert deleted(None) == (nothing, None)
    assert deleted(None, permanent=True) == (NEVER_WRITTEN, 0)


VERSION_0, VERSION_5, VERSION_4 = (ExpectedVersion(version) for version in (0, 5, 4))
EXISTS = ExpectedExists(exists=True)


@pytest.mark.parametrize(
    ("before", "met", "not_met", "actual"),
    [
        (stream(), [VERSION_5, EXISTS], [VERSION_0, VERSION_4], 5),
        # Also met by what it was when it was deleted, so that a deletion can be repeated.
        (DELETED, [VERSION_0, VERSION_5, EXISTS], [VERSION_4], 0),
        (PERMANENT, [VERSION_0, VERSION_5, EXISTS], [VERSION_4], 0),
        (None, [VERSION_0], [VERSION_5, EXISTS], 0),
        (NEVER_WRITTEN, [VERSION_0], [VERSION_5, EXISTS], 0),
        (stream(first_version=0), [VERSION_5, EXISTS], [VERSION_0], 5),
    ],
    ids=str,
)
@pytest.mark.parametrize("permanent", [False, True])
def test_expectations(before, met, not_met, actual, permanent):
    for expectation in met:
        deleted(before, expectation, permanent=permanent)
    for expectation in not_met:
        with pytest.raises(VersionConflict) as refusal:
            deleted(before, expectation, permanent=permanent)
        assert refusal.value.stream == "a"
        assert refusal.value.expectation == expectation
        assert refusal.value.actual_version == actual


# --- changes of a real log


@pytest.fixture
def storage(sqlite_file_url):
    with opened(sqlite_file_url) as storage:
        write(storage, [("a", make_event()) for _ in range(5)] + [("b", make_event())])
        yield storage


@pytest.fixture
def told():
    return []


@pytest.fixture
def changes(storage, told, monkeypatch):
    monkeypatch.setattr(streams_module, "PAUSE_SECONDS", 0)
    return StreamChanges(storage, lambda *change: told.append(change))


async def test_a_change_is_told_with_the_head_at_which_it_was_made(storage, changes, told):
    answer = await changes.update(UpdateStream("a", Retention(10**12, 3, 2)))
    assert answer == storage.stream("a")
    assert (answer.first_version, answer.retention) == (3, Retention(10**12, 3, 2))
    assert await changes.delete(DeleteStream("a", None, permanent=False)) == storage.stream("a")
    assert await changes.delete(DeleteStream("a", None, permanent=True)) == storage.stream("a")
    assert told == [
        (RuleChange("a", Rule(1, 3, 10**12), 5, False, 1), 6),
        (RuleChange("a", Rule(5), 5, False, 2), 6),
        (RuleChange("a", Rule(5), 5, True, 3), 6),
    ]
    assert storage.head().generation == 3


async def test_what_changes_nothing_is_not_told(storage, changes, told):
    await changes.delete(DeleteStream("b", None, permanent=True))
    told.clear()
    for permanent in (False, True):
        answer = await changes.delete(DeleteStream("b", ExpectedVersion(1), permanent))
        assert answer == storage.stream("b")
    nothing = await changes.delete(DeleteStream("never", None, permanent=False))
    assert (nothing.name, nothing.version, nothing.next_version) == ("never", 0, 1)
    assert storage.stream("never") is None
    assert told == []
    assert storage.head().generation == 1


async def test_a_refused_change_changes_nothing(storage, changes, told):
    for refusal, asked in (
        (NotFound, UpdateStream("never", FOR_EVER)),
        (InvalidRequest, UpdateStream("a", Retention(truncate_before=7))),
    ):
        with pytest.raises(refusal):
            await changes.update(asked)
    with pytest.raises(VersionConflict):
        await changes.delete(DeleteStream("a", ExpectedVersion(4), permanent=True))
    assert told == []
    assert storage.head().generation == 0


class Failing:
    """Lets the transactions of a storage fail: before they begin, or at their commit, which may
    have gone through all the same."""

    def __init__(self, storage, monkeypatch):
        self.write = storage.write
        self.failures = []
        monkeypatch.setattr(storage, "write", self.failing)

    @contextmanager
    def failing(self, seconds):
        failure = self.failures.pop(0) if self.failures else None
        if failure == "away":
            raise StorageUnavailable("away")
        with self.write(seconds) as transaction:
            commit = transaction.commit

            def failing_commit():
                if failure == "committed":
                    commit()
                if failure is not None:
                    raise CommitUnknown

                commit()

            transaction.commit = failing_commit
            yield transaction


@pytest.fixture
def failing(storage, monkeypatch):
    return Failing(storage, monkeypatch)


@pytest.mark.parametrize(
    "failures",
    [["away", "away"], ["lost"], ["committed"], ["lost", "away", "committed", "away"]],
    ids=str,
)
async def test_a_change_is_tried_again_while_the_database_is_away(
    storage, changes, failing, failures
):
    failing.failures = list(failures)
    answer = await changes.update(UpdateStream("a", Retention(truncate_before=3)))
    assert (answer.first_version, answer) == (3, storage.stream("a"))
    failing.failures = list(failures)
    answer = await changes.delete(DeleteStream("a", ExpectedVersion(5), permanent=False))
    assert (answer.deletion, answer.next_version) == ("deleted", 6)
    assert failing.failures == []


@pytest.mark.parametrize(
    ("failures", "refusal"),
    [
        (["away"] * 99, StorageUnavailable),
        (["lost"] * 99, OutcomeUnknown),
        (["committed"] * 99, OutcomeUnknown),
        (["lost"] + ["away"] * 99, OutcomeUnknown),
    ],
    ids=["away", "lost", "committed", "lost and away"],
)
async def test_it_gives_up_and_says_whether_that_may_have_been_done(
    changes, failing, failures, refusal, monkeypatch
):
    monkeypatch.setattr(streams_module, "PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr(streams_module, "PAUSE_SECONDS", 0.01)
    failing.failures = failures
    with pytest.raises(refusal):
        await changes.delete(DeleteStream("a", None, permanent=False))


async def test_a_deletion_is_told_though_its_commit_had_no_known_end(changes, failing, told):
    """It is answered as done, so nothing of it may be sent from then on."""
    failing.failures = ["committed"]
    await changes.delete(DeleteStream("a", None, permanent=True))
    assert told == [(RuleChange("a", Rule(5), 5, True, 1), 6)]
