"""What requests have in common: the checks of names, numbers, times and queries.

What is wrong is told with the path of its field, as much of it as an answer holds, in the
order of the request. A limit of the whole request has an empty path and comes first.
"""

import re
from itertools import islice
from uuid import UUID

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from treering.v1 import event_store_service_pb2 as pb
from treering.v1 import query_pb2
from treering_server.core.errors import InvalidRequest, NotFound, Violation
from treering_server.core.limits import Limits
from treering_server.core.model import (
    MAX_POSITION,
    AfterPosition,
    AfterTime,
    AfterVersion,
    Source,
    StreamSource,
)
from treering_server.core.query import EVERYTHING, Query, QueryItem
from treering_server.services.statuses import MAX_VIOLATIONS

NIL_ID = UUID(int=0)

UUID_FORM = re.compile("[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
CONTROL_CHARACTER = re.compile("[\x00-\x1f\x7f-\x9f]")
"""Unicode category Cc."""
_NANOSECONDS = 1_000_000_000
_TIMESTAMP_SECONDS = range(-62_135_596_800, 253_402_300_800)
"""From the year 1 to the year 9999."""
_HEARTBEAT_NANOSECONDS = range(_NANOSECONDS // 10, 3_600 * _NANOSECONDS + 1)
_DURATION_SECONDS = range(315_576_000_001)
"""Up to what a `Duration` may hold: 10,000 years."""


class Checks:
    """Looks through one request and notes what is wrong with it."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._wrong_as_a_whole: list[Violation] = []
        self._wrong: list[Violation] = []
        self._query_strings = 0

    def wrong(self, field: str, description: str) -> None:
        """Notes something malformed or contradictory."""
        self._note(Violation(field, description))

    def over(self, field: str, what: str, limit: int, actual: int) -> None:
        """Notes that a limit is exceeded."""
        self._note(over_limit(field, what, limit, actual))

    def _note(self, violation: Violation) -> None:
        self._wrong.append(violation)
        if len(self._wrong) == MAX_VIOLATIONS:
            raise InvalidRequest(tuple(self._wrong))

    def finish(self, log: str) -> None:
        """Refuses the request if anything is wrong with it, or else if it is for another log."""
        self.whole("strings in queries", self._limits.query_strings, self._query_strings)
        if wrong := self._wrong_as_a_whole + self._wrong:
            raise InvalidRequest(tuple(wrong[:MAX_VIOLATIONS]))
        refuse_other_logs(log)

    def whole(self, what: str, limit: int, actual: int) -> None:
        """Checks a limit of the whole request."""
        if actual > limit:
            self._wrong_as_a_whole.append(over_limit("", what, limit, actual))

    def name(self, name: str, path: str, field: str = "", *, may_be_reserved: bool = True) -> None:
        """Checks a name, type, tag or content type, or what a query says of one.

        The path comes in two parts so that it is put together only where it is told.
        """
        size, limit = len(name.encode()), self._limits.name_bytes
        if 0 < size <= limit and name.isprintable() and (may_be_reserved or name[0] != "$"):
            return
        if not name:
            self.wrong(path + field, "must not be empty")
        if size > limit:
            self.over(path + field, "bytes", limit, size)
        self.characters(name, path + field, may_be_reserved)

    def characters(self, name: str, field: str, may_be_reserved: bool) -> None:
        """Checks what a name is made of."""
        if CONTROL_CHARACTER.search(name):
            self.wrong(field, "must not contain control characters")
        if not may_be_reserved and name.startswith("$"):
            self.wrong(field, 'must not begin with "$", which is reserved')

    def number(self, number: int, field: str) -> int:
        """Checks a position, version or count."""
        if number > MAX_POSITION:
            self.wrong(field, "must be at most 2^63-1")
        return number

    def uuid(self, text: str, path: str, field: str = "") -> UUID:
        """Checks and takes a UUID, in any case."""
        if UUID_FORM.fullmatch(text):
            return UUID(text)
        self.malformed_uuid(path + field)
        return NIL_ID  # The request is refused: any will do.

    def malformed_uuid(self, field: str) -> None:
        """Notes that a text is no UUID."""
        self.wrong(field, "must be a UUID in the form 8-4-4-4-12")

    def optional_uuid(self, text: str, field: str) -> UUID | None:
        """Checks and takes a UUID, if there is one."""
        return self.uuid(text, field) if text else None

    def time(self, time: Timestamp, field: str) -> int:
        """Checks and takes a time: its nanoseconds since 1970."""
        if time.seconds not in _TIMESTAMP_SECONDS or not 0 <= time.nanos < _NANOSECONDS:
            self.wrong(field, "must lie in the years 1 to 9999, with 0 to 999,999,999 nanos")
        return time.seconds * _NANOSECONDS + time.nanos

    def heartbeat(self, interval: Duration, field: str) -> float:
        """Checks and takes a heartbeat interval: its seconds."""
        nanoseconds = interval.seconds * _NANOSECONDS + interval.nanos
        if not 0 <= interval.nanos < _NANOSECONDS or nanoseconds not in _HEARTBEAT_NANOSECONDS:
            self.wrong(field, "must be 0.1 s to 1 h")
        return nanoseconds / _NANOSECONDS

    def age(self, age: Duration, field: str) -> int:
        """Checks and takes a maximal age: its microseconds, at least one."""
        is_one = age.seconds in _DURATION_SECONDS and 0 <= age.nanos < _NANOSECONDS
        if not is_one or not (age.seconds or age.nanos):
            self.wrong(field, "must be more than 0, and at most 10,000 years")
        return max(1, age.seconds * 1_000_000 + age.nanos // 1_000)

    def source(self, message: pb.ReadRequest | pb.SubscribeRequest) -> Source:
        """Checks and takes what is read or followed."""
        match message.WhichOneof("source"):
            case "stream":
                self.name(message.stream, "stream")
                return StreamSource(message.stream)
            case "query":
                return self.query(message.query, "query")
        self.wrong("source", "is required: give stream or query")
        return EVERYTHING

    def after(
        self, message: pb.ReadRequest | pb.SubscribeRequest, variant: str | None, backwards: bool
    ) -> AfterPosition | AfterVersion | AfterTime | None:
        """Checks and takes where to begin, which `variant` says in the message."""
        match variant:
            case "after_position" if backwards:
                return AfterPosition(min(message.after_position, MAX_POSITION))
            case "after_position":
                return AfterPosition(self.number(message.after_position, variant))
            case "after_version":
                if message.WhichOneof("source") == "query":
                    self.wrong(variant, "is for a stream only")
                return AfterVersion(self.number(message.after_version, variant))
            case "after_time":
                return AfterTime(self.time(message.after_time, variant))
        return None

    def query(self, query: query_pb2.Query, path: str) -> Query:
        """Checks and takes a query."""
        count, limit = len(query.items), self._limits.query_items
        if query.all == (count > 0):
            self.wrong(path, "must have either items or all, and not both")
        if count > limit:
            self.over(f"{path}.items", "items", limit, count)
        if count == 0:
            return EVERYTHING
        items = enumerate(islice(query.items, limit))
        return Query(tuple(self._query_item(item, f"{path}.items[{n}]") for n, item in items))

    def _query_item(self, item: query_pb2.QueryItem, path: str) -> QueryItem:
        parts = {field.name: strings for field, strings in item.ListFields()}
        if not parts:
            self.wrong(path, "must have at least one part")
        self._query_strings += sum(map(len, parts.values()))
        if self._query_strings > self._limits.query_strings:
            return QueryItem()
        for part, strings in parts.items():
            for n, string in enumerate(strings):
                self.name(string, path, f".{part}[{n}]")
        return QueryItem(**{part: frozenset(strings) for part, strings in parts.items()})


def refuse_other_logs(log: str) -> None:
    """Refuses a request for another log than the only one there is."""
    if log:
        raise NotFound("log", log[:255])


def over_limit(field: str, what: str, limit: int, actual: int) -> Violation:
    """What is wrong with a field, or with a whole request, that is over a limit."""
    return Violation(field, f"{actual} {what} are over the limit of {limit}", limit, actual)
