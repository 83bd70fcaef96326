"""How the transport is kept from harm: what a connection may do, and how many there may be,
before any call of it is looked at."""

import resource
from typing import TypeAlias

METADATA_BYTES = 16 * 1024
"""One call must have less, counted as HTTP/2 does: names, values, and 32 bytes for each."""
CONNECTION_CALLS = 6_000
"""Calls that one connection may have open: 5,000 subscriptions, and room for others. More wait at
the client, in silence; so it is not fewer. Those that were taken back at once (rapid reset) count
until they are cleared away, but only where there is a number to count to."""
WAITING_CALLS = 10_000
"""Calls of all connections that were not taken up yet. The transport ends those beyond with
CANCELLED, which tells a caller nothing. Unless told otherwise it does so from 1,000 on, and that
many come at once when a few busy clients connect again. More than one connection can fill."""
WINDOW_BYTES = 256 * 1024
"""Of a request that is not taken yet. A pipeline sends so much in one round trip."""
HANDSHAKE_MILLISECONDS = 10_000
"""How long a new connection may take to begin, and to acknowledge our settings. The transport
holds nobody to those before that."""

Options: TypeAlias = "tuple[tuple[str, int], ...]"


def server_options(*, receive_bytes: int, connections: int) -> Options:
    """The options of the server."""
    return (
        # A ping every 5 s is welcome, also without calls; one that comes sooner, as timers on a
        # busy machine do, is no offence. Three too many, and the connection is closed.
        ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
        ("grpc.http2.max_ping_strikes", 2),
        ("grpc.keepalive_permit_without_calls", 1),
        # A peer that has gone without a word is noticed.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        # Beyond, a connection costs a file, which the database needs.
        ("grpc.max_allowed_incoming_connections", connections),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_MILLISECONDS),
        ("grpc.http2.settings_timeout", HANDSHAKE_MILLISECONDS),
        ("grpc.max_concurrent_streams", CONNECTION_CALLS),
        ("grpc.server.max_pending_requests", WAITING_CALLS),
        ("grpc.server.max_pending_requests_hard_limit", WAITING_CALLS),
        # One number. Between two, the transport refuses by chance.
        ("grpc.max_metadata_size", METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", METADATA_BYTES),
        ("grpc.max_receive_message_length", receive_bytes),
        # What a call may send before its request is taken. The probe would let that grow, to
        # megabytes on a quick network, for each of thousands of calls.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", WINDOW_BYTES),
        ("grpc.max_send_message_length", -1),
        # A second server on the same port must fail, not share it.
        ("grpc.so_reuseport", 0),
    )


def open_files_allowed(wanted: int) -> int:
    """Raises how many files this process may have open to so many, where it may, and answers
    how many that are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return allowed
