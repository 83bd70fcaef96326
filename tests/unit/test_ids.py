"""Version-7 ids: their form, their time, their order."""

import subprocess
import sys
import threading
import time
import uuid
from types import SimpleNamespace

import pytest

from treering import ids
from treering.ids import uuid7


def milliseconds_of(made: uuid.UUID) -> int:
    return made.int >> 80


def test_an_id_is_a_version_7_uuid_of_now():
    before = time.time_ns() // 1_000_000

    made = uuid7()

    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    assert before <= milliseconds_of(made) <= time.time_ns() // 1_000_000 + 1


def test_ids_rise_within_a_millisecond():
    made = [uuid7() for _ in range(20_000)]

    assert made == sorted(set(made))
    assert all(one.version == 7 and one.variant == uuid.RFC_4122 for one in made)
    assert [str(one) for one in made] == sorted(str(one) for one in made)


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands where it is set, in nanoseconds."""
    now = [1_800_000_000_000_000_000]
    monkeypatch.setattr(ids, "time", SimpleNamespace(time_ns=lambda: now[0]))
    monkeypatch.setattr(ids, "_values", ids._Rising())
    return now


def test_ids_rise_when_the_clock_goes_back(clock):
    first = uuid7()
    clock[0] -= 3_600 * 10**9

    assert first < uuid7() < uuid7()


def test_ids_follow_the_clock(clock):
    made = []
    for _ in range(100):
        made.append(uuid7())
        clock[0] += 1_000_000

    assert [milliseconds_of(one) for one in made] == [1_800_000_000_000 + n for n in range(100)]


def test_ids_go_over_into_the_next_millisecond_when_one_is_used_up(clock, monkeypatch):
    monkeypatch.setattr(ids, "secrets", SimpleNamespace(randbits=lambda bits: 2**bits - 1))

    first, second = uuid7(), uuid7()

    assert first.int & 0xFFF_3FFFFFFFFFFFFFFF == 0xFFF_3FFFFFFFFFFFFFFF
    assert milliseconds_of(second) == milliseconds_of(first) + 1
    assert (second.version, second.variant) == (7, uuid.RFC_4122)


def test_a_forked_process_makes_others():
    """Also within the millisecond in which it was forked. In a process of its own, as gRPC's
    threads and forks don't go together."""
    code = """
import os, time
from types import SimpleNamespace
from treering import ids
now = time.time_ns()
ids.time = SimpleNamespace(time_ns=lambda: now)
ids.uuid7(), ids.uuid7()
if os.fork():
    os.wait()
print(ids.uuid7(), flush=True)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert len(set(ran.stdout.split())) == 2


def test_threads_never_make_the_same():
    made: list[list[uuid.UUID]] = [[] for _ in range(4)]

    def make(into: list[uuid.UUID]) -> None:
        into.extend(uuid7() for _ in range(5_000))

    threads = [threading.Thread(target=make, args=(into,)) for into in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert all(into == sorted(into) for into in made)
    assert len(set().union(*made)) == 20_000
