"""Fills a log, for what is measured on a big one: streams of ten events, five of a stream at a
time, a thousand events in an append."""

from contestants.contestant import Contestant, NewEvent
from meter import Meter
from workloads.content import ONE_IN, RARE_TYPE, TYPE, filled_stream, new_event

EVENTS_PER_STREAM = 10
AT_A_TIME = 5
STREAMS_PER_APPEND = 200


async def measure(client: Contestant, meter: Meter, *, streams: int, first: int = 0) -> None:
    """Makes so many streams, whose numbers go on from `first`."""
    await client.open()
    with meter.measuring():
        await fill(client, first, streams)
    meter.operations = streams * EVENTS_PER_STREAM
    await client.close()


async def fill(client: Contestant, first: int, streams: int) -> None:
    """Makes them by an open client."""
    for begin in range(first, first + streams, STREAMS_PER_APPEND):
        end = min(begin + STREAMS_PER_APPEND, first + streams)
        for version in range(0, EVENTS_PER_STREAM, AT_A_TIME):
            await client.append_mixed(
                [
                    _event(number, version + later)
                    for number in range(begin, end)
                    for later in range(1, AT_A_TIME + 1)
                ]
            )


def rare_by_type(streams: int) -> int:
    """How many of the events are of the rare type."""
    return len(range(1, streams, ONE_IN // EVENTS_PER_STREAM))


def rare_by_category(streams: int) -> int:
    """How many are in the rare category."""
    return len(range(0, streams, ONE_IN)) * EVENTS_PER_STREAM


def _event(number: int, version: int) -> NewEvent:
    # One event of every hundredth stream.
    rare = number % (ONE_IN // EVENTS_PER_STREAM) == 1 and version == 1
    return new_event(filled_stream(number), version, RARE_TYPE if rare else TYPE)
