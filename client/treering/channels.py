"""The options of the channel, the same for both clients."""

from collections.abc import Sequence

Options = Sequence[tuple[str, object]]

SERVICE = "/treering.v1.EventStoreService"
DEFAULT_ADDRESS = "127.0.0.1:7464"
DEFAULT_TIMEOUT_SECONDS = 10.0
# A connection may be slow, or only just be made. One that has answered nothing for so long is
# taken for dead, if there is reason to expect an answer.
DEAD_AFTER_SECONDS = 5.0

_OPTIONS: Options = (
    # Responses are cut at about 1 MiB, but one larger event travels alone, and a server's
    # limits may be raised.
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    # What is too large is refused by the server, with the limit and the actual value.
    ("grpc.max_send_message_length", -1),
    # A dead connection is noticed within 25 s, also while a subscription is silent. The server
    # accepts a ping every 5 s.
    ("grpc.keepalive_time_ms", 15_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # A connection that seems dead can be left for a new one only if no two channels share it.
    ("grpc.use_local_subchannel_pool", 1),
    # Retries are ours: gRPC's know nothing of event ids and checkpoints.
    ("grpc.enable_retries", 0),
    # gRPC's own back-off between connections grows to two minutes. The client has its own, and
    # a server that is back should be found at once.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 3_000),
)


def channel_options(options: Options) -> list[tuple[str, object]]:
    """Our options, with the caller's taking precedence."""
    merged = dict(_OPTIONS)
    merged.update(options)
    return list(merged.items())
