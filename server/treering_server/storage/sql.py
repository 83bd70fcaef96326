"""Statements written out, for the drivers as they are: what is asked often. To make a statement
with SQLAlchemy takes many times as long as SQLite takes to run it."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa


@dataclass(frozen=True, slots=True)
class Sql:
    """A piece of a statement, with the values of its placeholders (`?`) in their order."""

    text: str
    values: tuple[object, ...] = ()


def joined(separator: str, pieces: Collection[Sql]) -> Sql:
    """The pieces as one."""
    text = separator.join(piece.text for piece in pieces)
    return Sql(text, tuple(value for piece in pieces for value in piece.values))


class Driver:
    """What is below a connection, and how statements for it are written."""

    def __init__(self, connection: sa.Connection) -> None:
        """Takes a connection in autocommit, or in a transaction."""
        self._connection: Any = connection.connection.driver_connection
        self.is_postgresql = connection.dialect.name == "postgresql"

    def rows(self, statement: Sql, *, prepare: bool = False) -> list[Any]:
        """All rows of a statement. Prepared where that can be (decision 0011): one that goes by
        keys, so that one plan fits all values."""
        rows: list[Any]
        if not self.is_postgresql:
            rows = self._connection.execute(statement.text, statement.values).fetchall()
            return rows
        with self._connection.cursor(binary=True) as cursor:
            text = statement.text.replace("?", "%s")
            cursor.execute(text, statement.values, prepare=prepare)
            rows = cursor.fetchall()
            return rows

    def among(self, column: str, values: Collection[object]) -> Sql:
        """Whether a column has one of some values."""
        if self.is_postgresql:
            return Sql(f"{column} = ANY(?)", (list(values),))
        return Sql(f"{column} IN ({', '.join('?' * len(values))})", tuple(values))
