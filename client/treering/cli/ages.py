"""Ages, as people write them: `90s`, `15m`, `12h`, `30d`, `2w`."""

import re
from datetime import timedelta
from decimal import Decimal
from typing import Any

import typer

_UNITS = {
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}
_TEXT = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)([smhdw])")
_MICROSECOND = timedelta(microseconds=1)
_LONGEST = timedelta(seconds=315_576_000_000)  # protobuf's, 10,000 years


def age_option(name: str, help: str) -> Any:
    """An option that takes an age."""
    return typer.Option(name, parser=parse_age, metavar="AGE", help=help)


def parse_age(text: str) -> timedelta:
    """The age that a text names."""
    match = _TEXT.fullmatch(text)
    if match is None:
        raise typer.BadParameter(
            f"{text!r} is no age: a number and s, m, h, d or w, as in 90s, 12h or 30d"
        )
    number, unit = match.groups()
    microseconds = Decimal(number) * (_UNITS[unit] // _MICROSECOND)
    if not 1 <= microseconds <= _LONGEST // _MICROSECOND:
        raise typer.BadParameter(f"{text!r} is not above 0 and at most 10,000 years")
    return int(microseconds) * _MICROSECOND


def format_age(age: timedelta) -> str:
    """The text for an age, in days at most (those are the easiest to compare); `parse_age`
    takes it back."""
    for unit in "dhm":
        if age % _UNITS[unit] == timedelta(0):
            return f"{age // _UNITS[unit]}{unit}"
    seconds = Decimal(age // _MICROSECOND) / 1_000_000
    return f"{seconds:f}s"
