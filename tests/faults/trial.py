"""A trial: servers over a database, callers who write down what they are told, and faults, all
chosen by a seed; then the verdict over what happened. What is behind a verdict of guilty is
kept in a folder. `soak.py` makes trials from the command line."""

import asyncio
import os
import random
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from checks import PROMISES, BrokenPromise
from clocks import Clock
from databases import PostgresServer
from faults import end, hands, tended
from grounds import Kind, Setting, ground
from history import Calling, Peer, World
from records import History, Logged, keep_log
from sites import Site
from traffic import connect, stub
from treering.v1.stream_service_pb2_grpc import StreamServiceStub

KEPT = Path("build") / "faults"
"""Where that of a guilty trial is kept, unless said otherwise."""


@dataclass(frozen=True)
class Plan:
    """What a trial is to be like. The same plan chooses the same faults and calls."""

    kind: Kind
    servers: int
    seed: int
    seconds: float
    setting: Setting = "plain"

    @property
    def name(self) -> str:
        """For folders and messages."""
        return f"{self.kind}-{self.servers}-{self.setting}-{self.seed}"


@dataclass
class Verdict:
    """What came of it."""

    plan: Plan
    calls: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    events: int = 0
    seconds: float = 0
    broken: dict[str, str] = field(default_factory=dict)
    """By promise: how it was broken."""
    folder: Path | None = None
    """Where everything was kept, if one was."""

    def __str__(self) -> str:
        """One line."""
        faults = ", ".join(f"{count} {name}" for name, count in sorted(self.faults.items()))
        calls = ", ".join(f"{count} {name}" for name, count in sorted(self.calls.items()))
        broken = "; ".join(f"BROKEN {name}: {how}" for name, how in self.broken.items())
        return (
            f"{self.plan.name}: {self.events} events in {self.seconds:.0f} s "
            f"({self.events / max(self.seconds, 1):.0f}/s); appends and others: "
            f"{calls}; faults: {faults}; {broken or 'every promise kept'}"
            + (f"; see {self.folder}" if self.folder else "")
        )

    def count(self, history: History, log: Sequence[Logged]) -> None:
        """Counts what happened."""
        self.events = len(log)
        self.calls.update(attempt.outcome for attempt in history.attempts)
        self.calls["reads"] += len(history.reads)
        self.calls["subscriptions"] += len(history.subscriptions)
        self.calls["changes"] += len(history.changes)


class Trial:
    """Everything that takes part. Use as a context; `run` does it all."""

    def __init__(self, plan: Plan, postgres: PostgresServer | None = None) -> None:
        self.plan = plan
        self._stack = ExitStack()
        self.ground = ground(plan.kind, plan.setting, postgres)
        self.sites: list[Site] = []
        self.world = World((), plan.seed)
        self.log: list[Logged] = []

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self.ground)
            for _ in range(self.plan.servers):
                has_clock = self.plan.setting == "clocks"
                clock = stack.enter_context(Clock()) if has_clock else None
                self.sites.append(Site(self.ground.served_url, clock, stack))
                self.sites[-1].start()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    async def run(self) -> Verdict:
        """Lets everybody call while things break; then judges."""
        verdict = Verdict(self.plan)
        began = time.monotonic()
        async with AsyncExitStack() as stack:
            peers = []
            for site in self.sites:
                channel = await stack.enter_async_context(connect(site.to_clients.address))
                peers.append(Peer(stub(channel), StreamServiceStub(channel)))
            self.world.peers = peers
            try:
                async with AsyncExitStack() as mending, Calling(self.world) as calling:
                    await self._break(calling, verdict)
                    await asyncio.to_thread(self.ground.mend)
                    mending.push_async_callback(end, asyncio.create_task(self._mend()))
            except Exception:  # noqa: BLE001 - a caller's complaint is a verdict too
                verdict.broken["calls"] = traceback.format_exc()
        for site in self.sites:
            # In the way that leaves the most to be recovered.
            await asyncio.to_thread(site.kill)
        verdict.seconds = time.monotonic() - began
        try:
            await asyncio.to_thread(self.ground.mend)
            self.log = await asyncio.to_thread(self.ground.log)
        except BrokenPromise as error:
            verdict.broken["rows"] = str(error)
        else:
            verdict.broken |= broken(self.world.history, self.log)
        verdict.count(self.world.history, self.log)
        return verdict

    async def _break(self, calling: Calling, verdict: Verdict) -> None:
        """Lets all hands break things, for as long as nobody complains."""

        def note(fault: str) -> None:
            self.world.history.faults.append((time.monotonic(), fault))
            verdict.faults[fault] += 1

        until = time.monotonic() + self.plan.seconds
        working = [
            asyncio.create_task(hand.run(until))
            for hand in hands(self.plan.name, note, self.sites, self.ground)
        ]
        try:
            async with tended(random.Random(self.plan.name), note, self.sites):
                while not all(task.done() for task in working):
                    await asyncio.wait(working, timeout=0.2, return_when=asyncio.FIRST_EXCEPTION)
                    calling.check()
                    for task in working:
                        if task.done():
                            task.result()
        finally:
            for task in working:
                task.cancel()
            await asyncio.gather(*working, return_exceptions=True)

    async def _mend(self) -> None:
        """Sees to it that all servers run, until everybody has what was asked for."""
        while True:
            for site in self.sites:
                await site.tend()
            await asyncio.sleep(0.1)


def broken(history: History, log: Sequence[Logged]) -> dict[str, str]:
    """Asks every validator; by promise, how it was broken."""
    found = {}
    for promise, check in PROMISES.items():
        try:
            check(history, log)
        except BrokenPromise as error:
            found[promise] = str(error)
    return found


def keep(trial: Trial, verdict: Verdict, folder: Path) -> Path:
    """Keeps all that is needed to see what happened, and to make it happen again."""
    folder = folder / trial.plan.name
    folder.mkdir(parents=True, exist_ok=True)
    trial.world.history.keep(folder / "history.jsonl")
    keep_log(trial.log, folder / "log.jsonl")
    plan = trial.plan
    again = (
        f"make soak ARGS='--database {plan.kind} --servers {plan.servers} --seed {plan.seed} "
        f"--setting {plan.setting} --seconds {plan.seconds}'"
    )
    (folder / "verdict.txt").write_text(f"{verdict}\n\n{again}\n", encoding="utf-8")
    for number, site in enumerate(trial.sites):
        (folder / f"server-{number}.log").write_text("\n".join(site.logs), encoding="utf-8")
    return folder


async def tried(plan: Plan, postgres: PostgresServer | None = None) -> Verdict:
    """Makes a trial, on a PostgreSQL that is there already where that will do; what is guilty is
    kept."""
    with ExitStack() as stack:
        trial = await asyncio.to_thread(stack.enter_context, Trial(plan, postgres))
        verdict = await trial.run()
        if verdict.broken:
            verdict.folder = keep(trial, verdict, Path(os.environ.get("FAULT_FOLDER", KEPT)))
    return verdict
