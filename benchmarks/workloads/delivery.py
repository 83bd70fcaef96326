"""How long an event takes from before it is appended until each subscriber has it, and how many
are handed out in a burst. All are in this process, so that one clock measures."""

import time
from collections.abc import Sequence

from contestants.contestant import Contestant, NewEvent, Received
from meter import Meter
from workloads.content import check, new_event

WARM = "warm"
PAUSE_SECONDS = 0.002
WARM_UP_SECONDS = 0.05


class Followers:
    """Subscribers, and what each of them has received."""

    def __init__(self, number: int, due: Sequence[NewEvent], meter: Meter) -> None:
        self._due = [event.data for event in due]
        self._meter = meter
        self._ready = 0
        self._number = number
        self._done = 0
        self.sent: dict[bytes, float] = {}

    @property
    def are_ready(self) -> bool:
        """Whether all have received something."""
        return self._ready == self._number

    @property
    def are_done(self) -> bool:
        """Whether all have received everything."""
        return self._done == self._number

    def follower(self) -> Received:
        """What one of them does with each event."""
        due, sent, latencies = self._due, self.sent, self._meter.latencies
        marker = f'{{"of": "{WARM}-'.encode()
        place = -1

        def received(data: bytes) -> bool:
            nonlocal place
            now = time.perf_counter()
            if data.startswith(marker):
                if place < 0:
                    place = 0
                    self._ready += 1
                return False
            if data != due[place]:
                raise RuntimeError(f"a subscriber received {data!r} instead of {due[place]!r}")
            latencies.append(now - sent[data])
            place += 1
            if place < len(due):
                return False
            self._done += 1
            return True

        return received


async def measure(
    client: Contestant,
    meter: Meter,
    *,
    subscribers: int,
    events: int,
    at_once: int,
    rate: float | None,
) -> None:
    """Appends so many events, so many at once, at a rate per second or as fast as it goes, to
    that many subscribers, who must receive all of them in order."""
    stream = f"delivery-{subscribers}x{events}"
    due = [new_event(stream, version) for version in range(1, events + 1)]
    followers = Followers(subscribers, due, meter)
    sleep = client.concurrency.sleep

    async def publish() -> None:
        warm = 0
        while not followers.are_ready:
            warm += 1
            await client.append([new_event(f"{WARM}-{stream}", warm)])
            await sleep(WARM_UP_SECONDS)
        with meter.measuring() as began:
            for place in range(0, events, at_once):
                if rate is not None:
                    await sleep(began + place / rate - time.perf_counter())
                batch = due[place : place + at_once]
                now = time.perf_counter()
                followers.sent.update((event.data, now) for event in batch)
                await client.append(batch)
            while not followers.are_done:
                await sleep(PAUSE_SECONDS)

    await client.open()
    await client.concurrency.all(
        [*(client.follow(followers.follower()) for _ in range(subscribers)), publish()]
    )
    meter.operations = subscribers * events
    await check(client, {stream: events})
    await client.close()
