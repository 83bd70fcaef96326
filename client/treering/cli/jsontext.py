"""JSON as text: compact, with its numbers and members exactly as they were written.

Python's `json` turns `1e5` into `100000.0`, `1.00` into `1.0`, and of two members of the same
name keeps one. What somebody recorded is not ours to round, so data is never written again from
Python values: its text is kept, and only white space and needless escapes are taken out of it.

The canonical form is that of `json.dumps(value, ensure_ascii=False, separators=(",", ":"))`,
where numbers and repeated members stay as written and half a surrogate pair stays escaped.
"""

import json
import re
from typing import Any, NoReturn


class Number(str):
    """The text of a number."""

    __slots__ = ()


class NotJson(ValueError):
    """The text is not JSON; says where and why."""


def _refuse_constant(name: str) -> NoReturn:
    # Python reads NaN and Infinity, no other language's parser does.
    raise NotJson(f"{name} is not JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise NotJson("a name is there twice")
    return members


# What these two make of a text, `dumps` can turn back into values of the same kinds. The quick
# one stumbles over repeated names, so that what it lets through has lost none.
_quick = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_refuse_constant)
_exact = json.JSONDecoder(parse_int=Number, parse_float=Number, parse_constant=_refuse_constant)
dumps = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False).encode
_dumps_ascii = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode

_SPACE = re.compile(r"[ \t\n\r]*")
_STRING_OR_SPACE = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[ \t\n\r]+')
_HALF_PAIR = re.compile("[\ud800-\udfff]")


def compact(text: str) -> str:
    """The same JSON without white space and needless escapes. Raises `NotJson`."""
    if _is_quickly_compact(text):
        return text
    _decode_exactly(text)
    return _compact_checked(text)


def is_compact(text: str) -> bool:
    """Whether `compact` gives exactly this text again."""
    try:
        return compact(text) == text
    except NotJson:
        return False


def members(text: str) -> tuple[dict[str, Any], str | None]:
    """The members of a JSON object, and the compact text of the one called "data", if any.

    Numbers are `Number`s where there are any outside of "data". Raises `NotJson`; also for a
    name that is there twice, but inside "data" such names stay as they are.
    """
    # Nearly every line is compact already. It is enough to see that: taking a line apart member
    # by member costs several times as much.
    quick = _members_quickly(text)
    return _members_exactly(text) if quick is None else quick


def _is_quickly_compact(text: str) -> bool:
    try:
        return dumps(_quick.decode(text)) == text
    except (ValueError, RecursionError):
        return False


def _decode_exactly(text: str) -> Any:
    start = _skip_space(text, 0)
    value, end = _value_at(text, start)
    end = _skip_space(text, end)
    if end != len(text):
        raise NotJson(f"not JSON: more follows at character {end + 1}")
    return value


def _compact_checked(text: str) -> str:
    return _STRING_OR_SPACE.sub(_compact_token, text)


def _compact_token(token: re.Match[str]) -> str:
    written = token[0]
    if written[0] != '"':
        return ""
    if "\\" not in written:
        return written
    return _HALF_PAIR.sub(lambda half: f"\\u{ord(half[0]):04x}", dumps(json.loads(written)))


_DATA = '"data":'


def _members_quickly(text: str) -> tuple[dict[str, Any], str | None] | None:
    """The same for a line as programs write it, None for any other."""
    try:
        found = _quick.decode(text)
    except (ValueError, RecursionError):
        return None
    if type(found) is not dict:
        return None
    data = None
    for name, value in found.items():
        if name == "data":
            data = dumps(value)
        elif type(value) is not str:
            return None  # a number, perhaps: its text is needed
    if data is None:
        return found, None
    # Is what `dumps` gives what stands there? `,"data":` can't be part of a string (its quote
    # would end it), so it is a member's name; as the only one of its kind it is ours, or one
    # inside ours: then the text behind it is too short to be all of ours.
    at = text.find(_DATA)
    start = at + len(_DATA)
    if (
        text[at - 1 : at] in ("{", ",")
        and text.find(_DATA, start) < 0
        and text.startswith(data, start)
        and text[start + len(data)] in ",} \t\r\n"  # else 1.0 would pass for 1.00
    ):
        return found, data
    return None


def _members_exactly(text: str) -> tuple[dict[str, Any], str | None]:
    at = _skip_space(text, 0)
    if text[at : at + 1] != "{":
        _decode_exactly(text)
        raise NotJson("not a JSON object")
    found: dict[str, Any] = {}
    data = None
    at = _skip_space(text, at + 1)
    more = text[at : at + 1] != "}"
    while more:
        if text[at : at + 1] != '"':
            raise NotJson(f"not JSON: expected a name in quotes at character {at + 1}")
        name, at = _value_at(text, at)
        at = _skip_space(text, at)
        if text[at : at + 1] != ":":
            raise NotJson(f"not JSON: expected a colon at character {at + 1}")
        start = _skip_space(text, at + 1)
        value, end = _value_at(text, start)
        if name in found:
            raise NotJson(f"{name!r} is there twice")
        found[name] = value
        if name == "data":
            data = _compact_checked(text[start:end])
        at = _skip_space(text, end)
        more = text[at : at + 1] == ","
        if more:
            at = _skip_space(text, at + 1)
    if text[at : at + 1] != "}":
        raise NotJson(f"not JSON: expected a comma or a closing brace at character {at + 1}")
    at = _skip_space(text, at + 1)
    if at != len(text):
        raise NotJson(f"not JSON: more follows at character {at + 1}")
    return found, data


def _skip_space(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    assert space is not None  # it matches nothing, too
    return space.end()


def _value_at(text: str, at: int) -> tuple[Any, int]:
    try:
        return _exact.raw_decode(text, at)
    except json.JSONDecodeError as error:
        what = error.msg[:1].lower() + error.msg[1:].removesuffix(" at")
        raise NotJson(f"not JSON: {what} at character {error.pos + 1}") from None
    except RecursionError:
        raise NotJson("nested too deeply") from None


def dumps_plainly(value: Any) -> str:
    """Compact JSON in ASCII alone: for places that take no control characters at all."""
    return _dumps_ascii(value)
