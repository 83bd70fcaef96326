"""Counts what statements look at: neither plans nor clocks, which both change by themselves.

PostgreSQL counts by `EXPLAIN (ANALYZE, BUFFERS)`, run before each statement that the storage
sends, with its parameters; SQLite by the steps of its virtual machine.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import sqlalchemy as sa

STEPS_COUNTED = 10
"""SQLite tells of every so many steps."""


@dataclass
class Cost:
    """What was looked at, by all statements together."""

    statements: int = 0
    rows: int = 0
    """PostgreSQL: rows that scans yielded or filtered out."""
    pages: int = 0
    """PostgreSQL: pages of tables and indexes."""
    steps: int = 0
    """SQLite: steps of its virtual machine."""

    def add_statement(self, _text: str) -> None:
        """Counts a statement."""
        self.statements += 1

    def add_plan(self, plan: Mapping[str, Any]) -> None:
        """Counts what `EXPLAIN` tells of one statement."""
        self.pages += plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
        self._add_rows(plan)

    def _add_rows(self, node: Mapping[str, Any]) -> None:
        if "Relation Name" in node or node["Node Type"] == "Bitmap Index Scan":
            looked_at = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
            looked_at += node.get("Rows Removed by Index Recheck", 0)
            self.rows += round(looked_at * node["Actual Loops"])
        for child in node.get("Plans", ()):
            self._add_rows(child)


@contextmanager
def measured(engine: sa.Engine) -> Iterator[Cost]:
    """Counts all that is done by an engine meanwhile, one thing at a time."""
    cost = Cost()
    # So that it has one connection only, and that one is ours to watch.
    engine.dispose()
    with engine.connect() as connection:
        driver = connection.connection.driver_connection
    measure = _on_postgresql if engine.dialect.name == "postgresql" else _on_sqlite
    with measure(driver, cost):
        yield cost
    with engine.connect() as connection:
        assert connection.connection.driver_connection is driver, "another one was used, too"


@contextmanager
def _on_sqlite(driver: Any, cost: Cost) -> Iterator[None]:
    def count() -> int:
        cost.steps += STEPS_COUNTED
        return 0

    driver.set_trace_callback(cost.add_statement)
    driver.set_progress_handler(count, STEPS_COUNTED)
    try:
        yield
    finally:
        driver.set_progress_handler(None, 0)
        driver.set_trace_callback(None)


@contextmanager
def _on_postgresql(driver: Any, cost: Cost) -> Iterator[None]:
    class ExplainingCursor(psycopg.Cursor[Any]):
        def execute(self, query: Any, params: Any = None, **named: Any) -> Any:
            text = query.decode() if isinstance(query, bytes) else str(query)
            cost.add_statement(text)
            if text.lstrip().startswith(("SELECT", "WITH")):
                explain = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {text}"
                super().execute(explain, params, **named)
                [(plans,)] = self.fetchall()
                cost.add_plan(plans[0]["Plan"])
            return super().execute(query, params, **named)

    before = driver.cursor_factory
    driver.cursor_factory = ExplainingCursor
    try:
        yield
    finally:
        driver.cursor_factory = before
