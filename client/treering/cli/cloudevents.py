"""Events as CloudEvents: one JSON object a line, there and back without loss.

    an event's                       a line's
    id                               id; a UUID stays, any other text becomes the version-5 UUID
                                     of source and id and is kept as ce_id
    stream                           subject; none for an event of no stream
    type, time, content type         type, time, datacontenttype
    data                             data, or data_base64
    tags                             treeringtags: a string that holds a JSON array
    metadata correlation_id,         correlationid, causationid, traceparent
      causation_id, traceparent
    metadata ce_source               source; without it, urn:treering:<log id>
    metadata ce_<name>               <name>: an attribute that has no meaning to us
    any other metadata               treeringmetadata: a string that holds a JSON object
    position, version, recorded at   sequence, streamversion, recordedtime: facts of the log that
                                     exported them, passed over by an import

An attribute's name is made of lower-case letters and digits, and its value has no control
characters; metadata that can't be an attribute travels in treeringmetadata, so that what comes
out is always a CloudEvent, and what goes in again is always the same event. The one thing that
a round trip adds is ce_source, where an event had none.

Data of a JSON content type is the JSON itself, compact; data of any other type is the text of a
`data` that is a string, as the CloudEvents JSON format has it, and is exported in base64.
"""

import json
import re
import uuid
from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from treering.cli import jsontext
from treering.cli.jsontext import NotJson, Number
from treering.events import RecordedEvent
from treering.v1.event_pb2 import Event

JSON_CONTENT_TYPE = "application/json"
"""What an event's content type is where none is given."""

ID_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:treering:cloudevents")
"""Namespace of the ids made for events whose own id is no UUID."""

_MEANINGS = {
    "correlationid": "correlation_id",
    "causationid": "causation_id",
    "traceparent": "traceparent",
}
"""Attributes whose metadata goes by another name than ce_ and theirs."""

_PASSED_OVER = ("recordedtime", "sequence", "streamversion")
_OWN_NAMES = frozenset(
    (
        *("specversion", "id", "source", "type", "subject", "time", "datacontenttype"),
        *("data", "treeringtags", "treeringmetadata"),
        *_MEANINGS,
        *_PASSED_OVER,
    )
)
"""Names that an import reads in its own way, so that ce_ and one of them is no attribute."""

_UUID = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
_NO_EVENT_IDS = (str(uuid.UUID(int=0)), str(uuid.UUID(int=2**128 - 1)))
_ATTRIBUTE_NAME = re.compile("[a-z0-9]+")
# What CloudEvents keeps out of strings: control characters, code points that are no characters.
_NOT_IN_ATTRIBUTES = re.compile(
    "[\x00-\x1f\x7f-\x9f\ufdd0-\ufdef"
    + "".join(chr(plane << 16 | 0xFFFE) + chr(plane << 16 | 0xFFFF) for plane in range(17))
    + "]"
)
_TIME = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]((?:[01][0-9]|2[0-3]):[0-9]{2}:[0-9]{2})(?:\.([0-9]+))?"
    r"(?:[Zz]|([+-])([0-9]{2}):([0-9]{2}))"
)
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - in UTC, as all times here: without is faster
_MICROSECOND = timedelta(microseconds=1)
_DAY_SECONDS = 86_400
_FIRST_SECOND = -62_135_596_800  # 0001-01-01T00:00:00Z
_LAST_SECOND = 253_402_300_799  # 9999-12-31T23:59:59Z


class NotAnEvent(ValueError):
    """Why a line can't be taken."""


def is_json(content_type: str) -> bool:
    """Whether data of this content type is JSON: `application/json`, `…+json`, any case."""
    return _is_json(content_type)


@lru_cache(maxsize=1024)
def _is_json(content_type: str) -> bool:
    media_type, _, _ = content_type.partition(";")
    subtype = media_type.strip().lower().partition("/")[2]
    return subtype == "json" or subtype.endswith("+json")


def event_id(source: str, id: str) -> str:
    """The event id for a CloudEvent's id: itself in lower case if it is a UUID (the nil and the
    max one aside, which no event may have), else the version-5 UUID, in `ID_NAMESPACE`, of
    source, a zero byte and id, in UTF-8. Neither has a zero byte of its own, so that no two
    pairs give the same name.
    """
    lowered = id.lower()
    if _UUID.fullmatch(id) and lowered not in _NO_EVENT_IDS:
        return lowered
    return str(uuid.uuid5(ID_NAMESPACE, f"{source}\0{id}"))


# ---- from a line


def read_line(line: bytes) -> tuple[str, Event]:
    """The stream ("" for none) and the event that a line holds. Raises `NotAnEvent`."""
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise NotAnEvent(f"not UTF-8: byte {error.start + 1} of the line") from None
    try:
        attributes, data_json = jsontext.members(text)
    except NotJson as error:
        raise NotAnEvent(str(error)) from None
    try:
        return _event(attributes, data_json)
    except UnicodeEncodeError:
        raise NotAnEvent(
            "half of a surrogate pair (\\ud800 to \\udfff), which is no text"
        ) from None


def _event(attributes: dict[str, Any], data_json: str | None) -> tuple[str, Event]:
    take = attributes.pop
    version = _text("specversion", take("specversion", None), required=True)
    if version != "1.0":
        raise NotAnEvent(f'specversion is "{version}", expected "1.0"')
    source = _word("source", take("source", None))
    id = _word("id", take("id", None))
    type_ = _text("type", take("type", None), required=True)
    stream = _text("subject", take("subject", None))
    time = _text("time", take("time", None))
    content_type = _text("datacontenttype", take("datacontenttype", None)) or JSON_CONTENT_TYPE
    data = _data(content_type, data_json, take("data", None), take("data_base64", None))
    tags = _tags(take("treeringtags", None))
    own_metadata = take("treeringmetadata", None)
    for name in _PASSED_OVER:
        take(name, None)

    metadata = {"ce_source": source}
    recorded_id = event_id(source, id)
    if recorded_id != id and recorded_id != id.lower():
        metadata["ce_id"] = id
    for name, value in attributes.items():
        if value is not None:
            metadata[_MEANINGS.get(name) or f"ce_{name}"] = _attribute(name, value)
    if own_metadata is not None:
        _add_own(metadata, own_metadata)

    # What is not a plain value is set by itself: a third of what the constructor takes for it.
    event = Event(id=recorded_id, type=type_, data=data, content_type=content_type)
    if tags:
        event.tags.extend(tags)
    event.metadata.update(metadata)
    if time is not None:
        event.time.seconds, event.time.nanos = parse_time(time)
    if stream is None:
        return "", event
    stream.encode()  # the event's own texts are looked at by protobuf
    return stream, event


def _text(name: str, value: object, *, required: bool = False) -> str | None:
    """The value of an attribute that is a text. None: it is not there."""
    if value is None:
        if required:
            raise NotAnEvent(f"no {name}")
        return None
    if not isinstance(value, str) or isinstance(value, Number):
        raise NotAnEvent(f"{name} is {_kind(value)}, expected a string")
    if not value:
        raise NotAnEvent(
            f"{name} is empty" + ("" if required else ": give it a value or leave it out")
        )
    return value


def _word(name: str, value: object) -> str:
    """The same for source and id, by which an event is known."""
    text = _text(name, value, required=True)
    assert text is not None  # it is required
    if _NOT_IN_ATTRIBUTES.search(text):
        raise NotAnEvent(f"{name} has a control character")
    return text


def _attribute(name: str, value: object) -> str:
    """The text of a value that is kept as it is: a boolean or a number in JSON's words."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    raise NotAnEvent(f"{name} is {_kind(value)}, expected a string, a number or a boolean")


def _kind(value: object) -> str:
    match value:
        case dict():
            return "an object"
        case list():
            return "an array"
        case bool():
            return "a boolean"
        case _:
            return "a number"


def _data(content_type: str, data_json: str | None, data: object, base64: object) -> bytes:
    if base64 is None:
        if data_json is None:
            return b""
        if isinstance(data, str) and not isinstance(data, Number) and not is_json(content_type):
            return data.encode()
        return data_json.encode()
    if data_json is not None:
        raise NotAnEvent("both data and data_base64: an event has one of them")
    if not isinstance(base64, str) or isinstance(base64, Number):
        raise NotAnEvent(f"data_base64 is {_kind(base64)}, expected a string")
    try:
        return a2b_base64(base64, strict_mode=True)
    except (Base64Error, ValueError):
        raise NotAnEvent("data_base64 is not base64") from None


def _tags(value: object) -> list[str]:
    if value is None:
        return []
    tags = _inner_json("treeringtags", value)
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise NotAnEvent("treeringtags: expected a string that holds a JSON array of strings")
    return tags


def _add_own(metadata: dict[str, str], value: object) -> None:
    own = _inner_json("treeringmetadata", value)
    if not isinstance(own, dict) or not all(isinstance(text, str) for text in own.values()):
        raise NotAnEvent("treeringmetadata: expected a string that holds a JSON object of strings")
    for key in own:
        # An event may have a ce_source of its own, but a line can't do without a source.
        if key in metadata and key != "ce_source":
            raise NotAnEvent(f"treeringmetadata: {key!r} is there as an attribute, too")
    metadata.update(own)


def _inner_json(name: str, value: object) -> object:
    try:
        return json.loads(_text(name, value) or "")
    except (ValueError, RecursionError) as error:
        if isinstance(error, NotAnEvent):
            raise
        raise NotAnEvent(f"{name}: expected a string that holds JSON") from None


def parse_time(text: str) -> tuple[int, int]:
    """Seconds since 1970 and nanoseconds of a time as RFC 3339 writes it. Raises `NotAnEvent`."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise NotAnEvent(f'time is "{text}", expected one like 2026-01-31T12:00:00Z (RFC 3339)')
    date, clock, fraction, sign, hours, minutes = match.groups()
    try:
        since = datetime.fromisoformat(f"{date}T{clock}") - _EPOCH
    except ValueError as error:
        raise NotAnEvent(f'time is "{text}": {error}') from None
    seconds = since.days * _DAY_SECONDS + since.seconds
    if sign is not None:
        if int(hours) > 23 or int(minutes) > 59:
            raise NotAnEvent(f'time is "{text}": no such offset')
        offset = int(hours) * 3600 + int(minutes) * 60
        seconds += offset if sign == "-" else -offset
        if not _FIRST_SECOND <= seconds <= _LAST_SECOND:
            raise NotAnEvent(f'time is "{text}": outside of the years 1 to 9999 in UTC')
    if fraction is None:
        return seconds, 0
    if fraction[9:].strip("0"):
        # Rounding would change what was said, and two events' order with it.
        raise NotAnEvent(f'time is "{text}": finer than nanoseconds')
    return seconds, int(fraction[:9].ljust(9, "0"))


# ---- to a line


def write_line(event: RecordedEvent, log_id: str) -> str:
    """The line, without its end, for an event of the log with this id."""
    kept = dict(event.metadata)
    source = kept.get("ce_source", "")
    if _fits(source):
        del kept["ce_source"]
    else:
        source = f"urn:treering:{log_id}"
    recorded_id = str(event.id)
    id = kept.get("ce_id", "")
    if _fits(id) and id.lower() != recorded_id and event_id(source, id) == recorded_id:
        del kept["ce_id"]
    else:
        id = recorded_id

    line: dict[str, Any] = {"specversion": "1.0", "id": id, "source": source, "type": event.type}
    if event.stream:
        line["subject"] = event.stream
    if event.time_ns is not None:
        line["time"] = format_time(event.time_ns)
    line["datacontenttype"] = event.content_type
    if kept:
        _write_metadata(line, kept)
    if event.tags:
        line["treeringtags"] = _outer_json(list(event.tags))
    line["recordedtime"] = format_datetime(event.recorded_at)
    line["sequence"] = f"{event.position:020}"
    if event.stream:
        line["streamversion"] = event.version
    return with_data(line, event.content_type, event.data, compact_only=True)


def _write_metadata(line: dict[str, Any], kept: dict[str, str]) -> None:
    own = {}
    for name, key in _MEANINGS.items():
        if _fits(kept.get(key, "")):
            line[name] = kept.pop(key)
    for key in sorted(kept):  # a map has no order, equal events have equal lines
        name = key[3:]
        if (
            key.startswith("ce_")
            and _ATTRIBUTE_NAME.fullmatch(name)
            and name not in _OWN_NAMES
            and _fits(kept[key])
        ):
            line[name] = kept[key]
        else:
            own[key] = kept[key]
    if own:
        line["treeringmetadata"] = _outer_json(own)


def _fits(value: str) -> bool:
    """Whether a text can be an attribute's value."""
    return bool(value) and not _NOT_IN_ATTRIBUTES.search(value)


def _outer_json(value: Any) -> str:
    text = jsontext.dumps(value)
    return jsontext.dumps_plainly(value) if _NOT_IN_ATTRIBUTES.search(text) else text


def with_data(
    members: dict[str, Any], content_type: str, data: bytes, *, compact_only: bool = False
) -> str:
    """The JSON object of these members and of the data, as `data` if it is JSON, else as
    `data_base64`. With `compact_only`, only if it is the same bytes when it is read again, and
    with neither if there is no data.
    """
    if compact_only and not data:
        return jsontext.dumps(members)
    if is_json(content_type):
        try:
            text = data.decode()
            compact = jsontext.compact(text)
        except (UnicodeDecodeError, NotJson):
            pass
        else:
            if compact == text or not compact_only:
                return f'{jsontext.dumps(members)[:-1]},"data":{compact}}}'
    members["data_base64"] = b2a_base64(data, newline=False).decode()
    return jsontext.dumps(members)


def format_time(nanoseconds: int) -> str:
    """A time, in nanoseconds since 1970, as RFC 3339 writes it: in seconds, or with the six
    digits that most languages write, or with nine where it takes them."""
    seconds, nanos = divmod(nanoseconds, 1_000_000_000)
    text = (_EPOCH + timedelta(seconds=seconds)).isoformat()
    if not nanos:
        return f"{text}Z"
    fraction = f"{nanos:09}"
    digits = 6 if fraction.endswith("000") else 9
    return f"{text}.{fraction[:digits]}Z"


def format_datetime(time: datetime) -> str:
    """The same for a time in UTC of Python's kind."""
    return format_time((time.replace(tzinfo=None) - _EPOCH) // _MICROSECOND * 1000)
