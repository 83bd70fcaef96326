"""Callers with names, as connections have them."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from treering_server.core.turns import caller

T = TypeVar("T")


def as_caller(name: str, coroutine: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
    """Starts something in somebody's name."""
    token = caller.set(name)
    try:
        return asyncio.create_task(coroutine)
    finally:
        caller.reset(token)
