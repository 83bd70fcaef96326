"""A client of HTTP/2 that has no manners: whatever bytes a test makes are what goes out."""

import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Self

from hpack import Decoder

from calls import WAIT_SECONDS

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
CANCEL = 0x8
HEAD_BYTES = 9
FRAME_BYTES = 16_384
"""What a frame may hold."""

Headers = Sequence[tuple[bytes, bytes]]


class Kind(IntEnum):
    """Kinds of frames."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


@dataclass(frozen=True)
class Frame:
    """One frame, received."""

    kind: int
    flags: int
    stream: int
    payload: bytes
    said: Mapping[str, str] = field(default_factory=dict)
    """Its headers."""


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    """One frame, to be sent."""
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


def settings(**values: int) -> bytes:
    """Settings of ours, by their numbers: `_3=100`."""
    payload = b"".join(
        int(number[1:]).to_bytes(2) + value.to_bytes(4) for number, value in values.items()
    )
    return frame(Kind.SETTINGS, payload=payload)


def literal(text: bytes) -> bytes:
    """A string of HPACK, as it is."""
    if len(text) < 127:
        return bytes((len(text),)) + text
    rest = len(text) - 127
    size = bytearray((127,))
    while rest >= 128:
        size.append(rest % 128 + 128)
        rest //= 128
    return bytes(size) + bytes((rest,)) + text


def block(sent: Headers) -> bytes:
    """Headers that neither look at what was sent before nor are remembered."""
    return b"".join(b"\x00" + literal(name) + literal(value) for name, value in sent)


USUAL: Headers = (
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/treering.v1.EventStoreService/GetHead"),
    (b":authority", b"localhost"),
    (b"te", b"trailers"),
    (b"content-type", b"application/grpc"),
    (b"grpc-timeout", b"1S"),
)
"""Of a call for the head, with a deadline."""


def headers(*more: tuple[bytes, bytes], **instead: bytes | None) -> Headers:
    """The usual headers, some with another value or (None) left out, and more of them."""
    changed = {
        name: instead.get(name.decode().strip(":").replace("-", "_"), usual)
        for name, usual in USUAL
    }
    return (*((name, value) for name, value in changed.items() if value is not None), *more)


def message(data: bytes, compressed: int = 0) -> bytes:
    """A message of gRPC, with its prefix."""
    return bytes((compressed,)) + len(data).to_bytes(4) + data


def begin(stream: int, sent: Headers = USUAL) -> bytes:
    """The beginning of a call: its headers, in as many frames as they take."""
    encoded = block(sent)
    parts = [encoded[at : at + FRAME_BYTES] for at in range(0, len(encoded), FRAME_BYTES)]
    return b"".join(
        frame(
            Kind.CONTINUATION if number else Kind.HEADERS,
            END_HEADERS if part is parts[-1] else 0,
            stream,
            part,
        )
        for number, part in enumerate(parts)
    )


def call(stream: int, sent: Headers = USUAL, data: bytes = b"") -> bytes:
    """A whole call of one message."""
    return begin(stream, sent) + frame(Kind.DATA, END_STREAM, stream, message(data))


def reset(stream: int) -> bytes:
    """Takes a call back."""
    return frame(Kind.RST_STREAM, 0, stream, CANCEL.to_bytes(4))


LAST = frame(Kind.PING, payload=b"the last")
"""Answered when everything before it was read."""


@dataclass(frozen=True)
class End:
    """How a call ended."""

    status: int | None = None
    """The code of gRPC, if there was one."""
    message: str = ""
    reset: int | None = None
    """The code of HTTP/2 with which the server took it back."""
    closed: bool = False
    """Whether the connection ended instead."""


class Connection:
    """A connection that says what it is told to. Every method blocks."""

    def __init__(self, address: str, first: bytes = PREFACE + settings()) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), WAIT_SECONDS)
        self._seconds = WAIT_SECONDS
        self._received = b""
        self._decoder = Decoder()
        self.is_closed = False
        """Whether the server has closed it."""
        self.farewell: bytes | None = None
        """What the server said when it sent us away, if it did."""
        self.send(first)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def agree(self) -> Self:
        """Waits for the server's settings and acknowledges them, as a good client does, and lets
        the server send as much as it likes."""
        for received in self.frames():
            if received.kind == Kind.SETTINGS and not received.flags & ACK:
                self.send(frame(Kind.SETTINGS, ACK))
                self.send(frame(Kind.WINDOW_UPDATE, payload=(2**30).to_bytes(4)))
                break
        return self

    def patience(self, seconds: float) -> None:
        """Sends wait no longer than this for the server to take what was sent before."""
        self._seconds = seconds
        self._socket.settimeout(seconds)

    def tear(self) -> None:
        """Ends it without a goodbye, as a machine does that has forgotten it."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def send(self, data: bytes) -> bool:
        """Sends it, and tells whether the server took it, which it may refuse to."""
        try:
            self._socket.sendall(data)
        except OSError:
            return False
        return True

    def end_of(self, stream: int, seconds: float = WAIT_SECONDS) -> End | None:
        """How a call ends; None if it doesn't, for so long."""
        for received in self.frames(seconds):
            if received.kind == Kind.HEADERS:
                if received.stream == stream and received.flags & END_STREAM:
                    status = received.said.get("grpc-status")
                    return End(
                        None if status is None else int(status),
                        received.said.get("grpc-message", ""),
                    )
            elif received.kind == Kind.RST_STREAM and received.stream == stream:
                return End(reset=int.from_bytes(received.payload))
        return End(closed=True) if self.is_closed else None

    def until_read(self, seconds: float = WAIT_SECONDS) -> bool:
        """Reads all that comes until the server has read all that was sent, or hung up; false if
        that takes longer than so long. `LAST` must have been sent."""
        pong = Frame(Kind.PING, ACK, 0, LAST[HEAD_BYTES:])
        return any(received == pong for received in self.frames(seconds)) or self.is_closed

    def drain(self, seconds: float = WAIT_SECONDS) -> Counter[Kind]:
        """Reads all that comes for so long, or until the connection is closed, and counts it."""
        return Counter(Kind(received.kind) for received in self.frames(seconds))

    def frames(self, seconds: float = WAIT_SECONDS) -> Iterator[Frame]:
        """What comes, for so long or until the connection is closed."""
        deadline = time.monotonic() + seconds
        while True:
            while (received := self._take()) is not None:
                if received.kind == Kind.GOAWAY:
                    self.farewell = received.payload[8:]
                yield received
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return
            self._socket.settimeout(remaining)
            try:
                data = self._socket.recv(1 << 20)
            except TimeoutError:
                return
            except OSError:
                data = b""
            finally:
                self._socket.settimeout(self._seconds)
            if not data:
                self.is_closed = True
                return
            self._received += data

    def _take(self) -> Frame | None:
        size = int.from_bytes(self._received[:3]) + HEAD_BYTES
        if len(self._received) < max(size, HEAD_BYTES):
            return None
        taken, self._received = self._received[:size], self._received[size:]
        received = Frame(taken[3], taken[4], int.from_bytes(taken[5:9]), taken[HEAD_BYTES:])
        if received.kind != Kind.HEADERS:
            return received
        # All of them are decoded, since what they say depends on those before.
        said = {str(name): str(value) for name, value in self._decoder.decode(received.payload)}
        return replace(received, said=said)
