"""The dumps that releases left of their logs, and how they are loaded."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg

RELEASED = Path(__file__).parent / "migrations" / "released"

# What psycopg can't run of a dump for psql, or another version of PostgreSQL would refuse.
FOR_PSQL = ("--", "\\", "SET ", "SELECT pg_catalog.set_config")

Made = tuple[str, dict[str, Any]]
"""A dump, and what was in the log."""


def load_sqlite(url: str, dump: str) -> None:
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
        connection.executescript(dump)


def load_postgresql(url: str, dump: str) -> None:
    lines = [line for line in dump.splitlines() if not line.startswith(FOR_PSQL)]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("\n".join(lines).encode())


def released(kind: str, revision: str) -> Made:
    folder = RELEASED / revision
    return (folder / f"{kind}.sql").read_text(), json.loads((folder / f"{kind}.json").read_text())


REVISIONS = sorted(folder.name for folder in RELEASED.iterdir() if folder.is_dir())
