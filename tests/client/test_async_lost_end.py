"""A log that lost its end, as a restore leaves it: what a client is told, and how it goes on."""

import shutil
from pathlib import Path

import pytest

from databases import sqlite_url
from treering import AsyncClient, Checkpoint, Event, LogDiverged, RecordedEvent, Started


class Restorable:
    """A server whose database can be taken back to what it was, while it is away."""

    def __init__(self, start, directory, port):
        self.address = f"127.0.0.1:{port}"
        self._start = start
        self._url = sqlite_url(directory)
        self._database = Path(self._url.removeprefix("sqlite:///"))
        self._kept = directory / "kept"
        self._server = start(self._url, listen=self.address)

    def keep(self):
        """Keeps a copy of what there is."""
        self._server.terminate()
        self._kept.mkdir()
        for each in self._files():
            shutil.copy(each, self._kept)
        self._server = self._start(self._url, listen=self.address)

    def restore(self):
        """Brings the copy back, in the place of what there is."""
        self._server.terminate()
        for each in self._files():
            each.unlink()
        for each in self._kept.iterdir():
            shutil.copy(each, self._database.parent)
        self._server = self._start(self._url, listen=self.address)

    def _files(self):
        names = (f"{self._database.name}{suffix}" for suffix in ("", "-wal", "-shm"))
        return [each for name in names if (each := self._database.with_name(name)).exists()]


@pytest.fixture
def restorable(server_process, tmp_path, free_port):
    return Restorable(server_process, tmp_path, free_port)


async def take_events(subscription, count):
    """The next events."""
    events = []
    async for event in subscription.events():
        events.append(event)
        if len(events) == count:
            break
    return [event.json() for event in events]


async def test_who_has_seen_what_was_lost_is_told_and_goes_on_from_the_fork(restorable):
    async with AsyncClient(restorable.address) as client:
        await client.append("s", [Event("A", 1), Event("A", 2)])
        restorable.keep()
        before = await client.append("s", [Event("A", 3), Event("A", 4)])
        async with client.subscribe("s") as subscription:
            assert await take_events(subscription, 4) == [1, 2, 3, 4]
            restorable.restore()
            with pytest.raises(LogDiverged) as lost:
                await take_events(subscription, 1)
            stored = subscription.checkpoint
        assert stored.log_id == before.log_id
        after = await client.append("s", Event("A", 5))
        assert after.log_id != before.log_id
        assert (lost.value.log_id, lost.value.last_common_position) == (after.log_id, 2)
        # What was stored is refused for as long as it is kept.
        with pytest.raises(LogDiverged) as again:
            await take_events(client.subscribe("s", after=stored), 1)
        assert again.value.last_common_position == 2
        checkpoint = Checkpoint(lost.value.log_id, lost.value.last_common_position)
        async with client.subscribe("s", after=checkpoint) as subscription:
            assert await take_events(subscription, 1) == [5]


async def test_who_has_seen_nothing_of_what_was_lost_goes_on_under_the_new_id(restorable):
    async with AsyncClient(restorable.address) as client:
        before = await client.append("s", [Event("A", 1), Event("A", 2)])
        restorable.keep()
        async with client.subscribe("s") as subscription:
            assert await take_events(subscription, 2) == [1, 2]
            stored = subscription.checkpoint
        await client.append("s", Event("A", 3))
        restorable.restore()
        after = await client.append("s", Event("A", 4))
        assert stored == before.checkpoint
        assert after.log_id != before.log_id
        async with client.subscribe("s", after=stored) as subscription:
            started = await anext(subscription)
            assert isinstance(started, Started)
            assert started.log_id == after.log_id
            assert subscription.checkpoint == Checkpoint(after.log_id, 2, stored.event_id)
            event = await anext(subscription)
            assert isinstance(event, RecordedEvent)
            assert event.json() == 4
            assert subscription.checkpoint == after.checkpoint


async def test_a_decision_about_what_was_lost_is_refused(restorable):
    async with AsyncClient(restorable.address) as client:
        await client.append("s", Event("A", 1))
        restorable.keep()
        reading = client.read("s")
        await reading.to_list()
        await client.append("s", Event("A", 2))
        restorable.restore()
        with pytest.raises(LogDiverged) as lost:
            await client.append("s", Event("A", 3), expected_log_id=reading.log_id)
        assert not lost.value.outcome_unknown
        reading = client.read("s")
        assert [event.json() for event in await reading.to_list()] == [1]
        assert reading.log_id == lost.value.log_id
        await client.append("s", Event("A", 3), expected_log_id=reading.log_id)
