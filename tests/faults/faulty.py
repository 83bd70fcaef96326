"""A real storage that fails on demand, in a real server."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from treering_server import server
from treering_server.core.errors import StorageUnavailable
from treering_server.core.storage import CommitUnknown, NewRecord, Storage, StorageDefect

POISON = "Poison"
"""A type of event that the database does not take."""

Commit = Callable[[], None]


def lose_the_answer(commit: Commit) -> None:
    """Commits, and does not learn of it."""
    commit()
    raise CommitUnknown("the answer was lost")


def lose_the_commit(_commit: Commit) -> None:
    """Does not commit, and does not learn of it."""
    raise CommitUnknown("the commit was lost")


class FaultyStorage:
    """What is not named here is the real storage's."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.is_away = False
        """Whether the database can't be reached."""
        self.commits: list[Callable[[Commit], None]] = []
        """What becomes of the next commits, in their order."""
        self.gate = threading.Event()
        """While it is not set, nobody gets the append lock."""
        self.gate.set()
        self.is_held = False
        """Whether somebody waits at the gate."""
        self.batches: list[Sequence[NewRecord]] = []
        """All that was to be inserted."""

    def __getattr__(self, name: str) -> Any:
        if self.is_away:
            raise StorageUnavailable("away, as the test wants it")
        return getattr(self._storage, name)

    @property
    def log_id(self) -> UUID:
        """Known without asking the database."""
        return self._storage.log_id

    @contextmanager
    def write(self, lock_seconds: float) -> Iterator[Any]:
        self.is_held = not self.gate.is_set()
        self.gate.wait()
        self.is_held = False
        if self.is_away:
            raise StorageUnavailable("away, as the test wants it")
        with self._storage.write(lock_seconds) as transaction:
            yield FaultyTransaction(self, transaction)


class FaultyTransaction:
    """What is not named here is the real transaction's."""

    def __init__(self, faulty: FaultyStorage, transaction: Any) -> None:
        self._faulty = faulty
        self._transaction = transaction

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transaction, name)

    def insert(self, records: Sequence[NewRecord]) -> None:
        self._faulty.batches.append(records)
        self._transaction.insert(records)
        if any(record.terms.type == POISON for record in records):
            raise StorageDefect("poisoned")

    def commit(self) -> None:
        if self._faulty.commits:
            self._faulty.commits.pop(0)(self._transaction.commit)
        else:
            self._transaction.commit()


def make_faulty(monkeypatch: pytest.MonkeyPatch) -> list[FaultyStorage]:
    """Lets every server that starts from now on have a faulty storage; gives them."""
    open_database = vars(server)["open_database"]
    storages = []

    def opened(*arguments: Any, **named: Any) -> Any:
        database = open_database(*arguments, **named)
        storages.append(FaultyStorage(database.storage))
        return replace(database, storage=storages[-1])

    monkeypatch.setattr(server, "open_database", opened)
    return storages
