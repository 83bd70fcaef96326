"""Requests made from the descriptors: such as make sense, and such as are made to hurt.

All is chosen by the random numbers that it is given: the same seed makes the same request.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar
from uuid import UUID

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

M = TypeVar("M", bound=Message)

UNKNOWN_FIELDS = (
    b"\x80\x7d\x01",
    b"\x81\x7d" + bytes(8),
    b"\x82\x7d\x03abc",
    b"\x83\x7d\x84\x7d",
    b"\x85\x7d" + bytes(4),
    b"\xf8\xff\xff\xff\x0f\x00",
)
"""Of every wire type, and the highest number."""
NUMBERS = (
    *(0, 1, 2, 3, 127, 128, 255, 1000, 1001, 10_000),
    *(2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1),
    *(-1, -(2**31), -(2**63), -62_135_596_800, 253_402_300_799, 253_402_300_800),
)
TEXTS = (
    "",
    "$reserved",
    "a\x00b",
    "\n",
    "\x7f",
    "\u202e\u0301\ufeff",
    "é" * 127 + "x",
    "é" * 128,
    "😀" * 63 + "abc",
    "😀" * 64,
    "x" * 255,
    "x" * 256,
    "x" * 70_000,
    "'; DROP TABLE events; --",
    "%s%n{0}\\",
    "*_%[a-z]?",
    "00000000-0000-0000-0000-000000000000",
    "ffffffff-ffff-ffff-ffff-ffffffffffff",
    "{00000000-0000-7000-8000-000000000001}",
)
SIZES = (0, 1, 65_535, 65_536, 65_537, 1024 * 1024, 1024 * 1024 + 1)
"""Of data and of metadata."""
COUNTS = (0, 2, 16, 17, 64, 65, 128, 129, 1_000, 1_025)
"""Of repeated fields, at what limits there are."""
HUGE = 0.01
"""How often, of what is repeated, there are 10,001."""


class Maker:
    """Makes requests. Those that make sense are about streams of `names`."""

    def __init__(self, rng: random.Random, names: Sequence[str], log_id: str) -> None:
        self._rng = rng
        self._names = names
        self._log_id = log_id

    def request(self, kind: type[Message]) -> bytes:
        """One request, encoded: it makes sense, or it is wrong in one way or in several."""
        message = self.sensible(kind)
        for _ in range(self._rng.choice((0, 0, 1, 1, 2, 5))):
            self._hurt(message)
        data = message.SerializeToString()
        for _ in range(self._rng.choice((0, 0, 0, 1, 3))):
            data = self._damaged(data, kind)
        return data

    def sensible(self, kind: type[M]) -> M:
        """One that may well be taken."""
        message = kind()
        self._fill(message)
        return message

    def junk(self) -> bytes:
        """Bytes: any, or fields of any number, type and length, within one another."""
        if self._rng.random() < 0.5:
            return self._rng.randbytes(self._rng.choice((1, 8, 60, 1_000)))
        return self._fields(self._rng.randrange(6))

    def _fields(self, depth: int) -> bytes:
        rng, data = self._rng, b""
        for _ in range(rng.randrange(5)):
            kind = rng.randrange(8)
            data += varint(rng.choice((rng.randrange(16), rng.randrange(2**29))) << 3 | kind)
            match kind:
                case 0:
                    data += varint(rng.choice(NUMBERS) % 2**64)
                case 1 | 5:
                    data += rng.randbytes(8 if kind == 1 else 4)
                case 2:
                    inner = self._fields(depth - 1) if depth else rng.randbytes(rng.randrange(9))
                    wrong = rng.choice((0, 0, 0, 0, 1, 2**31))
                    data += varint(len(inner) + wrong) + inner
        return data

    def _fill(self, message: Message) -> None:
        rng = self._rng
        oneofs: Sequence[Any] = message.DESCRIPTOR.oneofs
        chosen = {rng.choice(oneof.fields).name for oneof in oneofs if rng.random() < 0.9}
        # Of what is said twice, only one: else hardly a query makes sense.
        if message.DESCRIPTOR.name == "Query":
            chosen.add(rng.choice(("items", "all")))
        for field in message.DESCRIPTOR.fields:
            is_free = field.containing_oneof is None and message.DESCRIPTOR.name != "Query"
            if field.name in chosen or (is_free and rng.random() < LIKELY.get(field.name, 0.6)):
                self._set(message, field, self._usual)

    def _set(
        self, message: Message, field: FieldDescriptor, value: Callable[[FieldDescriptor], Any]
    ) -> None:
        rng = self._rng
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            for _ in range(rng.randrange(3)):
                getattr(message, field.name)[rng.choice(self._names)] = rng.choice(self._names)
        elif field.message_type is not None and field.is_repeated:
            for _ in range(rng.choice((1, 1, 1, 2, 3))):
                self._fill(getattr(message, field.name).add())
        elif field.message_type is not None:
            getattr(message, field.name).SetInParent()
            self._fill(getattr(message, field.name))
        elif field.is_repeated:
            getattr(message, field.name).extend(value(field) for _ in range(rng.randrange(1, 4)))
        else:
            setattr(message, field.name, value(field))

    def _usual(self, field: FieldDescriptor) -> Any:
        rng = self._rng
        match field.cpp_type:
            case FieldDescriptor.CPPTYPE_STRING if field.type == FieldDescriptor.TYPE_BYTES:
                return rng.randbytes(rng.randrange(50))
            case FieldDescriptor.CPPTYPE_STRING if field.name in {"id", "after_event_id"}:
                return new_id_of(rng)
            case FieldDescriptor.CPPTYPE_STRING if field.name == "expected_log_id":
                return self._log_id
            case FieldDescriptor.CPPTYPE_STRING:
                return rng.choice(self._names)
            case FieldDescriptor.CPPTYPE_BOOL:
                return True
            case FieldDescriptor.CPPTYPE_ENUM:
                return rng.choice(field.enum_type.values).number
        return rng.randrange(4)

    def _hurtful(self, field: FieldDescriptor) -> Any:
        rng = self._rng
        match field.cpp_type:
            case FieldDescriptor.CPPTYPE_STRING if field.type == FieldDescriptor.TYPE_BYTES:
                return bytes(rng.choice(SIZES))
            case FieldDescriptor.CPPTYPE_STRING:
                return rng.choice(TEXTS)
            case FieldDescriptor.CPPTYPE_BOOL:
                return rng.random() < 0.5
            case FieldDescriptor.CPPTYPE_INT32 | FieldDescriptor.CPPTYPE_ENUM:
                return within(rng.choice(NUMBERS), -(2**31), 2**31)
            case FieldDescriptor.CPPTYPE_INT64:
                return within(rng.choice(NUMBERS), -(2**63), 2**63)
        return rng.choice(NUMBERS) % 2**64

    def _hurt(self, message: Message) -> None:
        """Makes something of it wrong, or at least odd, at any depth."""
        rng = self._rng
        part = rng.choice(list(messages_in(message)))
        if rng.random() < 0.15 or not part.DESCRIPTOR.fields:
            part.MergeFromString(rng.choice(UNKNOWN_FIELDS))
            return
        field: Any = rng.choice(part.DESCRIPTOR.fields)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            entries = getattr(part, field.name)
            entries[rng.choice(TEXTS)] = "v" * rng.choice(SIZES[:5])
            entries.update((f"k{n}", "") for n in range(rng.choice(COUNTS)))
        elif field.is_repeated:
            self._crowd(part, field)
        elif field.message_type is not None:
            # Any other member of the same oneof goes.
            getattr(part, field.name).SetInParent()
        else:
            setattr(part, field.name, self._hurtful(field))

    def _crowd(self, part: Message, field: FieldDescriptor) -> None:
        rng, values = self._rng, getattr(part, field.name)
        count = 10_001 if rng.random() < HUGE else rng.choice(COUNTS)
        if rng.random() < 0.2:
            part.ClearField(field.name)
        elif field.message_type is None:
            value = self._hurtful if rng.random() < 0.5 else self._usual
            values.extend(value(field) for _ in range(min(count, 3)))
            values.extend(f"n{n}" for n in range(count))
        else:
            if not values:
                self._fill(values.add())
            values.extend(values[:1] * min(count, 200) if rng.random() < 0.7 else [])

    def _damaged(self, data: bytes, kind: type[Message]) -> bytes:
        """The same bytes, not quite."""
        rng = self._rng
        at = rng.randrange(len(data) + 1)
        match rng.randrange(8):
            case 0:
                return data[:at]
            case 1 if data:
                at = rng.randrange(len(data))
                return data[:at] + bytes((data[at] ^ 1 << rng.randrange(8),)) + data[at + 1 :]
            case 2:
                return data[:at] + rng.randbytes(rng.randrange(1, 5)) + data[at:]
            case 3:
                return data[:at] + data[at : at + 20] * 2 + data[at + 20 :]
            case 4:
                # Each field once more, another member of each oneof too.
                return data + self.sensible(kind).SerializeToString()
            case 5:
                deep = rng.choice((10, 99, 101, 10_000))
                return data + b"\x83\x7d" * deep + b"\x84\x7d" * rng.choice((deep, deep - 1))
            case 6 if data:
                # Where there was text there may be no UTF-8 now.
                return data[:at] + rng.choice((b"\xff", b"\xc3", b"\xed\xa0\x80")) + data[at + 1 :]
        return data + varint(rng.randrange(16) << 3 | 2) + varint(rng.choice((1, 2**31, 2**63)))


LIKELY = {
    # Else everything is refused for these.
    "log": 0.03,
    "id": 0.97,
    "type": 0.97,
    "stream": 0.97,
    "conditions": 0.3,
    "min_position": 0.1,
    "expected_log_id": 0.2,
    "after_event_id": 0.1,
    "page_token": 0.1,
    "retention": 0.9,
    "permanent": 0.2,
    "nanos": 0.3,
}
"""How often a field is there in what makes sense."""


def messages_in(message: Message) -> Iterator[Message]:
    """The message and all within it, entries of maps aside."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        for part in value if field.is_repeated else (value,):
            yield from messages_in(part)


def within(number: int, least: int, above: int) -> int:
    """The number, or another in the range if it isn't."""
    return number if least <= number < above else (number - least) % (above - least) + least


def varint(number: int) -> bytes:
    """A number as it is encoded."""
    data = bytearray()
    while number > 0x7F:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*data, number))


def new_id_of(rng: random.Random) -> str:
    """An id, by the random numbers; now and then one of a few."""
    if rng.random() < 0.1:
        return f"00000000-0000-7000-8000-00000000000{rng.randrange(1, 6)}"
    return str(UUID(int=rng.getrandbits(128) | 1, version=4))
