"""Headers that no good client sends, and frames that are none. Whatever comes is answered, taken
back or hung up on, at once or at its deadline; and the next caller is served.

INTERNAL is said only where HTTP/2 or gRPC themselves are broken, by the transport, which knows no
better word for it; never for a request, and never by us.
"""

import asyncio
import gzip

import grpc
import pytest

from bystander import bystander, check_served
from wire import (
    END_HEADERS,
    END_STREAM,
    PREFACE,
    Connection,
    End,
    Kind,
    begin,
    block,
    call,
    frame,
    headers,
    message,
    settings,
)

DEADLINE_SECONDS = 5.0
"""More than the deadline of any call here."""
OK, INVALID, UNIMPLEMENTED, TOO_MUCH, LATE = (
    code.value[0]
    for code in (
        grpc.StatusCode.OK,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
    )
)
UNKNOWN, INTERNAL = grpc.StatusCode.UNKNOWN.value[0], grpc.StatusCode.INTERNAL.value[0]
TRANSPORT_SAYS = (
    "Error parsing ",
    "Failed parsing HTTP/2",
    "Illegal header key: ",
    "Metadata keys cannot be zero length",
    "Compression bit set but no encoding configured",
    "Decompression failed",
)
ZEROS = gzip.compress(bytes(100 * 1024 * 1024))


def metadata(size: int) -> tuple[bytes, bytes]:
    """That much metadata, as HTTP/2 counts."""
    return (b"x", b"v" * (size - 33))


def spent() -> int:
    """What the headers that every call has take, as HTTP/2 counts."""
    return sum(len(name) + len(value) + 32 for name, value in headers())


def sending(data: bytes, *more: tuple[bytes, bytes], last: int = END_STREAM) -> bytes:
    """A call with these bytes where its message should be."""
    size = 16_384
    parts = [data[at : at + size] for at in range(0, len(data), size)] or [b""]
    return begin(1, headers(*more)) + b"".join(
        frame(Kind.DATA, last if part is parts[-1] else 0, 1, part) for part in parts
    )


ANSWERED: dict[str, tuple[bytes, set[int]]] = {
    "an unknown method": (call(1, headers(path=b"/a/b")), {UNIMPLEMENTED}),
    "an unknown method of ours": (
        call(1, headers(path=b"/treering.v1.EventStoreService/Nothing")),
        {UNIMPLEMENTED},
    ),
    "no path": (call(1, headers(path=b"")), {UNIMPLEMENTED}),
    "a path that is no UTF-8": (call(1, headers(path=b"/\xff\xfe/\x00\r\n")), {UNIMPLEMENTED}),
    "a long path": (call(1, headers(path=b"/" + b"a" * 8000)), {UNIMPLEMENTED}),
    "the path twice": (call(1, headers((b":path", b"/a/b"))), {UNIMPLEMENTED}),
    "no time": (call(1, headers(grpc_timeout=b"0n")), {LATE}),
    "hardly any time": (call(1, headers(grpc_timeout=b"1n")), {OK, LATE}),
    "11,000 years of time": (call(1, headers(grpc_timeout=b"99999999H")), {OK}),
    "more time than there is": (call(1, headers(grpc_timeout=b"9" * 30 + b"H")), {OK}),
    "as much metadata as may be": (call(1, headers(metadata(16_383 - spent()))), {OK}),
    "more metadata than may be": (call(1, headers(metadata(16_384 - spent()))), {TOO_MUCH}),
    "a MiB of metadata": (call(1, headers(metadata(1024 * 1024))), {TOO_MUCH}),
    "many headers": (call(1, headers(*((b"x%d" % n, b"") for n in range(400)))), {OK}),
    "too many headers": (call(1, headers(*((b"x%d" % n, b"") for n in range(500)))), {TOO_MUCH}),
    "10,000 headers": (call(1, headers(*((b"x%d" % n, b"") for n in range(10_000)))), {TOO_MUCH}),
    "values of any bytes": (call(1, headers((b"x", bytes(range(256))))), {OK}),
    "a binary value": (call(1, headers((b"x-bin", b"AAEC"))), {OK}),
    "another content type": (call(1, headers(content_type=b"text/html")), {OK}),
    "our own trailers": (call(1, headers((b"grpc-status", b"13"), (b"grpc-message", b"x"))), {OK}),
    "a bomb": (sending(message(ZEROS, 1), (b"grpc-encoding", b"gzip")), {TOO_MUCH}),
    "4 GiB to come": (sending(b"\0\xff\xff\xff\xffabc", last=0), {TOO_MUCH}),
    "no message": (sending(b""), {INVALID}),
    "half a prefix": (sending(b"\0\0"), {INVALID}),
    "less than was said": (sending(message(b"x" * 100)[:50]), {INVALID}),
    "two messages": (sending(message(b"") * 2), {OK}),
    "a kind of frame that is not known": (frame(99, 0, 1, b"x") + call(1), {OK}),
    "dynamic tables of no size": (settings(_1=0) + call(1), {OK}),
}
"""Bytes that begin with a call on stream 1, and what may be said to it."""

BROKEN: dict[str, bytes] = {
    "GET": call(1, headers(method=b"GET")),
    "a method of junk": call(1, headers(method=b"\xff\x00")),
    **{
        f"without {name}": call(1, headers(**{name: None}))
        for name in ("method", "scheme", "path", "authority", "te")
    },
    "time before now": call(1, headers(grpc_timeout=b"-1S")),
    "time in words": call(1, headers(grpc_timeout=b"soon")),
    "an unknown compression": call(1, headers((b"grpc-encoding", b"snappy"))),
    "junk that is said to be gzip": sending(message(b"junk", 1), (b"grpc-encoding", b"gzip")),
    "compressed, not said how": sending(message(b"junk", 1)),
    "a flag of another kind": sending(message(b"", 255)),
    "upper case": call(1, headers((b"X-Up", b"1"))),
    "a name with a space": call(1, headers((b"x y", b"1"))),
    "a name of nothing": call(1, headers((b"", b"1"))),
    "a name with a colon": call(1, headers((b":x", b"1"))),
    "a binary value that is none": call(1, headers((b"x-bin", b"!!!"))),
    "tags that are none": call(1, headers((b"grpc-tags-bin", b"!!"))),
    "a trace that is none": call(1, headers((b"grpc-trace-bin", b"AAAA"))),
    "headers that are none": frame(Kind.HEADERS, END_HEADERS, 1, b"\xff" * 50),
    "a header of number 0": frame(Kind.HEADERS, END_HEADERS, 1, b"\x80"),
    "tables of any size": frame(
        Kind.HEADERS, END_HEADERS, 1, b"\x3f\xff\xff\xff\xff\x7f" + block(headers())
    ),
    "headers without end": frame(Kind.HEADERS, 0, 1, block(headers())) + begin(3),
    "headers of no stream": frame(Kind.HEADERS, END_HEADERS, 0, block(headers())),
    "a stream of the server's": call(2),
    "a stream from before": call(3) + call(1),
    "data of no stream": frame(Kind.DATA, 0, 0, b"x"),
    "data of no call": frame(Kind.DATA, END_STREAM, 1, b"x"),
    "a frame of 16 MiB": b"\xff\xff\xff\0\0\0\0\0\1" + b"x" * 100,
    "no window more": frame(Kind.WINDOW_UPDATE, 0, 0, bytes(4)),
    "more window than there is": frame(Kind.WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff") * 2,
    "settings cut off": frame(Kind.SETTINGS, 0, 0, b"abc"),
    "settings out of range": settings(_4=0xFFFFFFFF),
    "frames of no size": settings(_5=0),
    "half a ping": frame(Kind.PING, 0, 0, b"abc"),
    "taking back what was not begun": frame(Kind.RST_STREAM, 0, 77, bytes(4)),
    "a promise from a client": frame(Kind.PUSH_PROMISE, END_HEADERS, 1, bytes(4)),
    "a priority of itself": frame(Kind.PRIORITY, 0, 1, b"\0\0\0\1\0") + call(1),
}
"""What breaks the rules of HTTP/2 or of gRPC."""

NO_PREFACES = {
    "HTTP/1.1": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "TLS": bytes.fromhex("1603010200010001fc0303") + bytes(500),
    "zeros": bytes(5000),
    "half of it, then something else": PREFACE[:12] + b"\xff" * 500,
    "a preface and junk": PREFACE + b"\xff" * 500,
    "no settings": PREFACE + call(1),
}


def end_of_call(address: str, data: bytes) -> End | None:
    """What becomes of stream 1."""
    with Connection(address) as connection:
        connection.agree().send(data)
        return connection.end_of(1, DEADLINE_SECONDS)


def check_end(end: End | None) -> None:
    """What may be said to a caller at all."""
    if end is not None and end.status is not None:
        assert end.status != UNKNOWN
        if end.status == INTERNAL:
            assert end.message.startswith(TRANSPORT_SAYS)


@pytest.mark.timeout(240)
async def test_odd_headers_are_answered(server, subtests):
    async with bystander(server):
        for name, (data, statuses) in ANSWERED.items():
            end = await asyncio.to_thread(end_of_call, server.address, data)
            with subtests.test(name):
                assert end is not None
                assert end.status in statuses, end
    await check_served(server)


@pytest.mark.timeout(240)
async def test_what_breaks_the_rules_breaks_nothing_else(server, subtests):
    """All at once, each on its own connection: some are answered, some hung up on, some ignored."""
    async with bystander(server):
        ends = await asyncio.gather(
            *(asyncio.to_thread(end_of_call, server.address, data) for data in BROKEN.values())
        )
    for name, end in zip(BROKEN, ends, strict=True):
        with subtests.test(name):
            check_end(end)
    await check_served(server)


@pytest.mark.timeout(240)
async def test_who_does_not_begin_in_http_2_is_hung_up_on(server, subtests):
    def is_hung_up_on(first: bytes) -> bool:
        with Connection(server.address, first) as connection:
            connection.drain(15)
            return connection.is_closed

    async with bystander(server):
        hung_up = await asyncio.gather(
            *(asyncio.to_thread(is_hung_up_on, first) for first in NO_PREFACES.values())
        )
    for name, is_closed in zip(NO_PREFACES, hung_up, strict=True):
        with subtests.test(name):
            assert is_closed
    await check_served(server)
