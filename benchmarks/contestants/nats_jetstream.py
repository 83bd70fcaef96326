"""NATS JetStream as a broker that keeps everything: a subject for each stream."""

import json
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from concurrency import Concurrency, Tasks
from contestants.contestant import Contestant, NewEvent, Place, Received, Stored

CONFIGURATION = """
listen: "{address}"
jetstream {{ store_dir: "{directory}", sync_interval: always }}
"""
LOG = "log"
DIRECT_GET = f"$JS.API.DIRECT.GET.{LOG}"
END_OF_BATCH = "204"
AT_ONCE = 1000
"""The most messages of an atomic batch, and of a direct get."""


class NatsJetstream(Contestant):
    """Several events are an atomic batch, of which only the last is answered."""

    name = "nats-jetstream"
    durable = "sync_interval: always: one fsync for each message"
    concurrency: ClassVar[type[Concurrency]] = Tasks

    @classmethod
    def server(cls, place: Place, programs: Path) -> Sequence[str | Path]:
        """Command of the server, whose settings are in a file."""
        file = place.directory / "nats.conf"
        file.write_text(
            CONFIGURATION.format(address=place.address, directory=place.directory), encoding="utf-8"
        )
        return (programs / "nats-server", "--config", file)

    async def open(self) -> None:
        """Connects, and makes what keeps the events, unless it is there."""
        import nats

        self._connection: Any = await nats.connect(f"nats://{self.place.address}")
        self._jetstream: Any = self._connection.jetstream()
        await self._jetstream.add_stream(
            name=LOG, subjects=[f"{LOG}.>"], allow_direct=True, allow_atomic=True
        )
        self._last: dict[str, int] = {}
        """Sequence of the last event of each stream."""

    async def close(self) -> None:
        """Closes the connection."""
        await self._connection.close()

    async def append(self, events: Sequence[NewEvent]) -> int:
        """If the subject's last sequence is the one known."""
        stream = events[0].stream
        last = str(self._last.get(stream, 0))
        expected = {"Nats-Expected-Last-Subject-Sequence": last}
        if len(events) == 1:
            headers = {"Nats-Msg-Id": str(uuid.uuid4()), **expected}
            answer = await self._jetstream.publish(
                _subject(stream), events[0].data, headers=headers
            )
        else:
            answer = await self._batch(events, expected)
        position: int = answer.seq
        self._last[stream] = position
        return position

    async def append_mixed(self, events: Sequence[NewEvent]) -> None:
        """An atomic batch without expectation."""
        await self._batch(events, {})

    async def read_log(self) -> int:
        """By an ordered consumer, message by message."""
        count = 0
        async for _ in self._messages(0):
            count += 1
        return count

    async def load(self, stream: str) -> int:
        """A direct get of all that a subject has."""
        inbox = self._connection.new_inbox()
        answers = await self._connection.subscribe(inbox)
        request = {"next_by_subj": _subject(stream), "batch": AT_ONCE, "seq": 1}
        await self._connection.publish(DIRECT_GET, json.dumps(request).encode(), reply=inbox)
        count = 0
        while (await answers.next_msg()).headers.get("Status") != END_OF_BATCH:
            count += 1
        await answers.unsubscribe()
        return count

    async def follow(self, received: Received) -> None:
        """By an ordered consumer of what is new."""
        from nats.js.api import ConsumerConfig, DeliverPolicy

        new = ConsumerConfig(deliver_policy=DeliverPolicy.NEW)
        following = await self._jetstream.subscribe(f"{LOG}.>", ordered_consumer=True, config=new)
        async for message in following.messages:
            if received(message.data):
                break
        await following.unsubscribe()

    async def log(self, after: int) -> Iterable[Stored]:
        """By an ordered consumer."""
        return [
            Stored(message.metadata.sequence.stream, None, message.data)
            async for message in self._messages(after)
        ]

    async def _messages(self, after: int) -> Any:
        from nats.js.api import ConsumerConfig, DeliverPolicy

        state = (await self._jetstream.stream_info(LOG)).state
        if state.last_seq <= after:
            return
        start = ConsumerConfig(
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=after + 1
        )
        reading = await self._jetstream.subscribe(
            f"{LOG}.>", ordered_consumer=True, config=start, pending_msgs_limit=-1
        )
        async for message in reading.messages:
            yield message
            if message.metadata.sequence.stream == state.last_seq:
                break
        await reading.unsubscribe()

    async def _batch(self, events: Sequence[NewEvent], expected: dict[str, str]) -> Any:
        batch = uuid.uuid4().hex
        for number, event in enumerate(events, start=1):
            headers = {"Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(number)}
            if number == 1:
                headers |= expected
            if number == len(events):
                headers["Nats-Batch-Commit"] = "1"
                return await self._jetstream.publish(
                    _subject(event.stream), event.data, headers=headers
                )
            await self._connection.publish(_subject(event.stream), event.data, headers=headers)
        raise ValueError("no events")


def _subject(stream: str) -> str:
    return f"{LOG}.{stream}"
