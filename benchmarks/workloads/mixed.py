"""Everything at once: writers, readers who load streams, subscribers to all."""

import random
import time

from contestants.contestant import Contestant, Received
from meter import Meter
from workloads.content import check, filled_stream, new_event
from workloads.fill import EVENTS_PER_STREAM, fill

SEED = 5
STREAMS = 1000
"""That are there to be read."""
WARM = "warm"
END = "end"
WARM_UP_SECONDS = 0.05


async def measure(
    client: Contestant,
    meter: Meter,
    *,
    writers: int,
    readers: int,
    subscribers: int,
    seconds: float,
) -> None:
    """Does all of it for so long. What is counted are the appends; the subscribers must receive
    all of them."""
    chance = random.Random(SEED)
    sleep = client.concurrency.sleep
    versions = {f"mixed-{number}": 0 for number in range(writers)}
    loads = ready = received_in_all = 0
    end = 0.0

    def follower() -> Received:
        warm = False
        marks = tuple(f'{{"of": "{name}"'.encode() for name in (WARM, END))

        def received(data: bytes) -> bool:
            nonlocal warm, ready, received_in_all
            if data.startswith(marks[0]):
                ready += not warm
                warm = True
                return False
            if data.startswith(marks[1]):
                return True
            received_in_all += 1
            return False

        return received

    async def write(stream: str) -> None:
        while time.perf_counter() < end:
            event = new_event(stream, versions[stream] + 1)
            began = time.perf_counter()
            await client.append([event])
            meter.latencies.append(time.perf_counter() - began)
            versions[stream] += 1

    async def read() -> None:
        nonlocal loads
        while time.perf_counter() < end:
            stream = filled_stream(chance.randrange(STREAMS))
            if await client.load(stream) != EVENTS_PER_STREAM:
                raise RuntimeError(f"{stream} was not read whole")
            loads += 1

    async def work() -> None:
        nonlocal end
        warm = 0
        while ready < subscribers:
            warm += 1
            await client.append([new_event(WARM, warm)])
            await sleep(WARM_UP_SECONDS)
        with meter.measuring() as began:
            end = began + seconds
            await client.concurrency.all(
                [*(write(stream) for stream in versions), *(read() for _ in range(readers))]
            )
            await client.append([new_event(END, 1)])

    await client.open()
    await fill(client, 0, STREAMS)
    await client.concurrency.all([*(client.follow(follower()) for _ in range(subscribers)), work()])
    meter.operations = len(meter.latencies)
    meter.extra = {"loads/s": loads / seconds, "deliveries/s": received_in_all / seconds}
    if client.keeps and received_in_all != subscribers * meter.operations:
        raise RuntimeError(f"{subscribers} subscribers received {received_in_all} events")
    await check(client, versions)
    await client.close()
