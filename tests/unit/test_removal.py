"""What is removed of a stream: by the rule in memory, and by the same rule in both databases."""

import itertools
import uuid
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from databases import sqlite_url
from plans.logs import make_event, opened
from plans.strategies import EXAMPLES
from treering_server.core.model import MAX_POSITION, Retention
from treering_server.core.query import QueryItem, Terms
from treering_server.core.record import EnvelopeEncoder
from treering_server.core.removal import NOTHING, Rule
from treering_server.core.storage import NewRecord
from treering_server.storage import postgresql, reads, removal, sqlite

TEN_THOUSAND_YEARS = 315_576_000_000 * 10**6


# --- the rule


def removed(rule, *, last_version=5, now=100):
    """Versions of a stream that are removed, each of which was recorded at 10 times its number."""
    return [
        version
        for version in range(1, last_version + 1)
        if rule.removes(version, 10 * version, last_version=last_version, now=now)
    ]


@pytest.mark.parametrize(
    ("rule", "now", "due"),
    [
        (NOTHING, 100, []),
        (Rule(2), 100, [1, 2]),
        (Rule(5), 100, [1, 2, 3, 4, 5]),
        (Rule(max_count=1), 100, [1, 2, 3, 4]),
        (Rule(max_count=5), 100, []),
        (Rule(max_count=MAX_POSITION), 100, []),
        (Rule(max_age=70), 100, [1, 2]),
        (Rule(max_age=70), 101, [1, 2, 3]),
        (Rule(max_age=1), 51, [1, 2, 3, 4]),
        (Rule(max_age=1), 52, [1, 2, 3, 4, 5]),
        (Rule(max_age=TEN_THOUSAND_YEARS), 100, []),
        (Rule(1, max_count=3, max_age=90), 100, [1, 2]),
        (Rule(1, max_count=9, max_age=65), 100, [1, 2, 3]),
        (Rule(4, max_count=9, max_age=65), 100, [1, 2, 3, 4]),
    ],
    ids=str,
)
def test_any_part_removes(rule, now, due):
    assert removed(rule, now=now) == due


def test_only_bounds_on_number_and_age_move():
    assert not NOTHING.is_moving
    assert not Rule(7).is_moving
    assert Rule(0, max_count=1).is_moving
    assert Rule(0, max_age=1).is_moving


rules = st.builds(
    Rule,
    st.integers(0, 6),
    st.none() | st.integers(1, 7) | st.just(MAX_POSITION),
    st.none() | st.integers(1, 12) | st.just(TEN_THOUSAND_YEARS),
)
times = st.lists(st.integers(0, 3), min_size=1, max_size=7)


@given(rules, times, st.integers(0, 9), st.integers(0, 9))
def test_what_is_removed_is_a_prefix_and_never_comes_back(rule, passed, grown, later):
    recorded_at = [1_000 + sum(passed[: n + 1]) for n in range(len(passed))]

    def flags(last_version, now):
        return [
            rule.removes(version, time, last_version=last_version, now=now)
            for version, time in enumerate(recorded_at, start=1)
        ]

    before = flags(len(passed), recorded_at[-1])
    after = flags(len(passed) + grown, recorded_at[-1] + later)

    assert before == sorted(before, reverse=True)
    assert after == sorted(after, reverse=True)
    assert all(now for was, now in zip(before, after, strict=True) if was)


# --- the rule in SQL


@dataclass
class Log:
    """Events in a database, at times of our own, and what is to be removed of their streams."""

    storage: object
    base: int
    streams: dict[str, Rule]
    events: list[NewRecord] = field(default_factory=list)
    last_versions: Counter[str] = field(default_factory=Counter)

    @property
    def head(self):
        return self.base + len(self.events)

    def there(self, now, stream=None):
        """Positions of the events that are not removed."""
        found = []
        for event in self.events:
            name = event.terms.stream
            rule = self.streams.get(name, NOTHING)
            is_removed = name != "" and rule.removes(
                event.version, event.recorded_at, last_version=self.last_versions[name], now=now
            )
            if not is_removed and stream in (None, name):
                found.append(event.position)
        return found


def record(storage, placed, rules):
    """Records events after what is there, each with a stream and the time since the one before;
    and sets what is removed."""
    encoder = EnvelopeEncoder()
    with storage.write(5) as transaction:
        head = transaction.state(rules, ()).head
        log = Log(storage, head.position, rules)
        recorded_at = head.recorded_at or 1_000_000
        for position, (stream, passed) in enumerate(placed, start=head.position + 1):
            recorded_at += passed
            version = 0
            if stream:
                log.last_versions[stream] += 1
                version = log.last_versions[stream]
            event = make_event(f"T{log.base}", [f"tag:{log.base}"])
            body = event.body + encoder.encode(position, stream, version, recorded_at)
            terms = Terms(stream, event.type, event.tags)
            log.events.append(NewRecord(position, recorded_at, version, event.id, terms, body))
        transaction.insert(log.events)
        transaction.commit()
    with storage.write(5) as transaction:
        for name in log.last_versions:
            if name in rules:
                kept = Retention(rules[name].max_age, rules[name].max_count)
                stream = replace(transaction.stream(name, recorded_at), retention=kept)
                transaction.change_stream(stream, rules[name].floor_version)
        transaction.commit()
    return log


@contextmanager
def at(time):
    """Reads judge by a time of our own."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (reads, postgresql, sqlite):
            patch.setattr(module, "now", lambda: time)
        yield


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def storage(request, tmp_path_factory):
    if request.param == "sqlite":
        with opened(sqlite_url(tmp_path_factory.mktemp("removal"))) as storage:
            yield storage
        return
    postgres = request.getfixturevalue("postgres")
    url = postgres.create_database()
    with opened(url) as storage:
        yield storage
    postgres.drop_database(url)


NAMES = ["a", "b", "c"]


@settings(max_examples=EXAMPLES // 2)
@given(
    placed=st.lists(
        st.tuples(st.sampled_from([*NAMES, *NAMES, ""]), st.integers(0, 3)),
        min_size=1,
        max_size=20,
    ),
    given_rules=st.fixed_dictionaries({}, optional=dict.fromkeys(NAMES, rules)),
    later=st.integers(0, 6),
)
def test_both_databases_remove_what_the_rule_removes(storage, placed, given_rules, later):
    own = uuid.uuid4().hex
    lengths = Counter(stream for stream, _ in placed)
    rules = {
        f"{own}-{name}": Rule(min(rule.floor_version, lengths[name]), rule.max_count, rule.max_age)
        for name, rule in given_rules.items()
        if lengths[name]
    }
    last_id = last_stream_id(storage)
    log = record(storage, [(name and f"{own}-{name}", passed) for name, passed in placed], rules)
    now = log.events[-1].recorded_at + later
    with at(now):
        check_reads(log, now)
        check_streams(log, now)
        check_looks(log, now, own)
        check_what_is_to_be_erased(log, now, last_id)


def there_in(rows):
    return [position for position, _, read in rows if read is not None]


def check_reads(log, now):
    """Rows are all there, the records of removed ones are not."""
    storage, due = log.storage, log.there(now)
    every = list(range(log.base + 1, log.head + 1))
    for backwards in (False, True):
        rows = storage.records(log.base, log.head, backwards=backwards, max_bytes=10**6)
        assert sorted(position for position, *_ in rows) == every
        assert sorted(there_in(rows)) == due
    assert there_in(storage.records_at(every, max_bytes=10**6)) == due
    with storage.write(5) as transaction:
        assert there_in(transaction.records(log.base, log.head, max_bytes=10**6)) == due


def check_streams(log, now):
    storage = log.storage
    moving = {name: rule for name, rule in log.streams.items() if rule.is_moving}
    assert storage.moving_rules(log.last_versions.keys() | {"nobody's"}) == moving
    for name, last_version in log.last_versions.items():
        if not name:
            continue
        due = log.there(now, name)
        rows = storage.stream_records(name, 0, last_version, backwards=False, max_bytes=10**6)
        assert there_in(rows) == due
        versions = [event.version for event in log.events if event.position in due]
        first = min(versions, default=last_version + 1)
        stream, span = storage.stream(name), storage.span(name, log.head)
        assert (stream.version, stream.next_version) == (last_version, last_version + 1)
        assert stream.first_version == (min(versions) if versions else 0)
        assert (span.last, span.first) == (last_version, first)
        check_loads(storage, name, span)
        with storage.write(5) as transaction:
            state = transaction.state({name}, ()).streams[name]
            assert state.rule == log.streams.get(name, NOTHING)
            assert transaction.stream(name, now) == stream


def check_loads(storage, name, span):
    """All at once is what is read one by one."""
    for after, until, most, backwards in itertools.product(
        (0, 1, MAX_POSITION), (0, 2, MAX_POSITION), (0, 1, 2, 4_000), (False, True)
    ):
        loaded = storage.load(name, after, until, backwards=backwards, most=most, max_bytes=10**6)
        window = span.window(after, until, most, backwards=backwards)
        rows = storage.stream_records(name, *window, backwards=backwards, max_bytes=10**6)
        assert loaded == (storage.head(), span, rows)


def check_looks(log, now, own):
    """Whichever index is walked."""
    [(type_, [tag])] = {(event.terms.type, tuple(event.terms.tags)) for event in log.events}
    of_all = log.there(now)
    of_streams = sorted(set(of_all) - set(log.there(now, "")))
    names = frozenset(name for name in log.last_versions if name)
    items = [
        (QueryItem(), of_all),
        (QueryItem(types=frozenset({type_})), of_all),
        (QueryItem(tags=frozenset({tag})), of_all),
        (QueryItem(types=frozenset({type_}), tags=frozenset({tag})), of_all),
        (QueryItem(categories=frozenset({own})), of_streams),
        (QueryItem(stream_prefixes=frozenset({own})), of_streams),
        (QueryItem(stream_prefixes=frozenset({f"{own}-"})), of_streams),
    ]
    if names:
        items.append((QueryItem(streams=names), of_streams))
    for item, due in items:
        for backwards in (False, True):
            found = log.storage.matching(
                item, log.base, log.head, backwards=backwards, max_postings=1_000
            )
            assert found.positions == sorted(due, reverse=backwards), (item, backwards)


def check_what_is_to_be_erased(log, now, last_id):
    due = Counter()
    for name, rule in log.streams.items():
        last_version = log.last_versions[name]
        versions = [
            event.version
            for event in log.events
            if event.terms.stream == name
            and rule.removes(event.version, event.recorded_at, last_version=last_version, now=now)
        ]
        if rule.is_moving or rule.floor_version:
            due[max(versions, default=0), rule.floor_version, rule.is_moving] += 1
    found = Counter(
        (each.removed_version, each.floor_version, each.is_moving)
        for each in log.storage.removing(last_id, 1_000)
    )
    assert found == due


def last_stream_id(storage):
    with storage._engine.connect() as connection:
        return connection.exec_driver_sql("SELECT coalesce(max(id), 0) FROM streams").scalar()


def test_the_clock_of_removal_never_goes_back(monkeypatch):
    monkeypatch.setattr(removal, "_latest", 0)
    clock = iter([5_000, 3_000, 4_000, 9_000])
    monkeypatch.setattr(removal.time, "time_ns", lambda: next(clock))
    assert [removal.now() for _ in range(4)] == [5, 5, 5, 9]
