"""From the bytes of a request to its message, which has no field that this server doesn't
know, at any depth: so no precondition and no filter is ever silently ignored."""

from collections.abc import Iterator
from itertools import islice
from typing import TypeVar

from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from treering_server.core.errors import InvalidRequest, Violation
from treering_server.services.statuses import MAX_VIOLATIONS

_MESSAGES_SEARCHED = 10_000
"""Messages within a request that are searched for the unknown field in it."""

_M = TypeVar("_M", bound=Message)


def parse(kind: type[_M], data: bytes) -> _M:
    """The message, which has no field that this server doesn't know, at any depth."""
    message = decode(kind, data)
    if discard_unknown_fields(message):
        refuse_unknown_fields(decode(kind, data))
    return message


def decode(kind: type[_M], data: bytes) -> _M:
    """The message, unknown fields and all."""
    try:
        return kind.FromString(data)
    except DecodeError:
        raise InvalidRequest((Violation("", no_message(kind)),)) from None


def no_message(kind: type[Message]) -> str:
    """What is wrong with bytes that can't be decoded, for people."""
    return f"these bytes are no {kind.DESCRIPTOR.name}, or text in it is not UTF-8"


def discard_unknown_fields(message: Message) -> bool:
    """Drops fields not known, and tells whether there were any, anywhere in the message."""
    size = message.ByteSize()
    message.DiscardUnknownFields()
    return message.ByteSize() != size


def refuse_unknown_fields(message: Message) -> None:
    """Refuses the message if it has any unknown fields, telling where."""
    violations: list[Violation] = []
    for part, path in islice(_messages_in(message, ""), _MESSAGES_SEARCHED):
        violations += unknown_fields_of(part, path)
        if len(violations) >= MAX_VIOLATIONS:
            break
    if not violations and discard_unknown_fields(message):
        violations = [Violation("", "fields deep within have numbers or types not known here")]
    if violations:
        raise InvalidRequest(tuple(violations[:MAX_VIOLATIONS]))


def unknown_fields_of(message: Message, path: str) -> list[Violation]:
    """What is not known of the message itself, which is at a path."""
    fields = UnknownFieldSet(message)
    return [
        Violation(path, f"field {fields[n].field_number} has a number or type not known here")
        for n in range(min(len(fields), MAX_VIOLATIONS))
    ]


def _messages_in(message: Message, path: str) -> Iterator[tuple[Message, str]]:
    """The message and all within it, with their paths. Those of maps can't be looked into."""
    yield message, path
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        inner = f"{path}.{field.name}" if path else field.name
        if field.is_repeated:
            for index, item in enumerate(value):
                yield from _messages_in(item, f"{inner}[{index}]")
        else:
            yield from _messages_in(value, inner)
