"""Numbers of types and categories that are known to be in the database."""

MOST_NAMES = 100_000
"""Of each kind. A log that makes up a type for every event must not fill the memory."""


class Names:
    """Remembers the number of a name. Numbers are given under the append lock and never
    change, so that what is known stays true; only a transaction that was rolled back must
    be forgotten. Used by the writer's thread alone."""

    def __init__(self) -> None:
        """Knows nothing yet."""
        self._numbers: dict[str, dict[str, int]] = {}

    def known(self, table: str) -> dict[str, int]:
        """The numbers of one kind, to look up and to add to."""
        numbers = self._numbers.setdefault(table, {})
        if len(numbers) > MOST_NAMES:
            numbers.clear()
        return numbers

    def forget(self) -> None:
        """After a rollback."""
        self._numbers.clear()
