"""Emmett on PostgreSQL: a library for Node, so that its client is a program of its own
(`emmett-postgresql.mjs`), which takes the same orders as `cell.py`.

Its consumers are not measured: they wait between 100 ms and a second after each batch that was
not full, and were seen to skip and to repeat events.
"""

from contestants.contestant import Contestant


class EmmettPostgresql(Contestant):
    """With a pool of connections as large as that of the others."""

    name = "emmett-postgresql"
    durable = "PostgreSQL, fsync and synchronous_commit on: one commit for each append"
    tools = "node"
    on_postgresql = True

    @classmethod
    def offers(cls, method: str) -> bool:
        """What the program does."""
        return method in {"append", "read_log", "load", "log"}
