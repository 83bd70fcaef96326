"""Prefixes as ranges of names that are sorted by their bytes."""

import sqlite3

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from databases import sqlite_url
from plans.logs import make_event, opened, write
from treering_server.core.model import ListStreams
from treering_server.core.query import QueryItem
from treering_server.storage.matching import begins_with

# What sorts differently by bytes, code points, UTF-16, language or LIKE: signs that LIKE knows,
# both cases, what comes before and after the gap of the surrogates, and the last of all.
SIGNS = [*"aAb%_\\-éß", "\u0301", "\ud7ff", "\ue000", "\U0010ffff"]
PREFIXES = [*SIGNS, *(first + second for first in SIGNS for second in SIGNS)]
NAMES = [*PREFIXES, *(prefix + "a" for prefix in PREFIXES), "\U0010ffff" * 3]

MEMORY = sqlite3.connect(":memory:")

texts = st.text(st.sampled_from([*SIGNS, "\U0010fffe", "\ud7fe", "\x7f", "\x80"]), max_size=4)


@given(name=texts, prefix=texts.filter(bool))
@example(name="\U0010ffff" * 2, prefix="\U0010ffff")
@example(name="\ue000", prefix="\ud7ff")
@example(name="b", prefix="a\U0010ffff")
def test_a_name_is_in_the_range_of_a_prefix_if_it_begins_with_it(name, prefix):
    check = begins_with("name", prefix)
    statement = f"SELECT {check.text} FROM (SELECT ? AS name)"
    [(found,)] = MEMORY.execute(statement, (*check.values, name)).fetchall()
    assert bool(found) == name.startswith(prefix)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def url(request, tmp_path_factory):
    """A database of either kind for all tests of this file."""
    if request.param == "sqlite":
        yield sqlite_url(tmp_path_factory.mktemp("names"))
        return
    postgres = request.getfixturevalue("postgres")
    url = postgres.create_database()
    yield url
    postgres.drop_database(url)


@pytest.fixture(scope="module")
def storage(url):
    """A log with a stream of each name."""
    with opened(url) as storage:
        write(storage, [(name, make_event()) for name in NAMES])
        yield storage


def test_streams_are_listed_by_prefix_in_the_order_of_their_bytes(storage):
    for prefix in ["", *PREFIXES]:
        request = ListStreams(prefix, page_size=1_000, after_name=None, show_deleted=False)
        due = sorted(filter(lambda name: name.startswith(prefix), set(NAMES)), key=str.encode)
        assert [stream.name for stream in storage.streams(request)] == due, repr(prefix)


def test_queries_by_prefix_match_what_begins_with_it(storage):
    for prefix in PREFIXES:
        item = QueryItem(stream_prefixes=frozenset({prefix}))
        found = storage.matching(item, 0, len(NAMES), backwards=False, max_postings=10_000)
        due = [position for position, name in enumerate(NAMES, start=1) if name.startswith(prefix)]
        assert found.positions == due, repr(prefix)
