"""What breaks things in tests: it does what it says."""

import asyncio
import socket
import subprocess
import sys
import time

import pytest

import clocks
import disks
from clocks import Clock
from disks import SmallDisk
from proxy import FAST, Pace, Proxy

TELL = """
import sys, time
while sys.stdin.readline():
    print(time.time(), time.monotonic(), flush=True)
"""


@pytest.mark.skipif(bool(clocks.missing()), reason=clocks.missing())
@pytest.mark.parametrize("seconds", [3_600, -86_400, -int(time.time()) + 5])
def test_a_clock_that_is_set_while_a_process_runs(seconds):
    with Clock() as clock:
        process = subprocess.Popen(
            [sys.executable, "-c", TELL],
            env=dict(clock.variables),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

        def told():
            process.stdin.write("\n")
            process.stdin.flush()
            return map(float, process.stdout.readline().split())

        day, monotonic = told()
        assert abs(day - time.time()) < 60
        clock.set(seconds)
        later, and_monotonic = told()
        assert abs(later - day - seconds) < 60
        assert 0 <= and_monotonic - monotonic < 60
        process.communicate()


@pytest.mark.skipif(bool(disks.missing()), reason=disks.missing())
def test_a_disk_that_is_full_and_has_room_again():
    with SmallDisk(2) as disk:
        file = disk.directory / "file"
        disk.fill()
        with pytest.raises(OSError, match="No space left"):
            file.write_bytes(b"x" * 100_000)
        disk.clear()
        file.write_bytes(b"x" * 100_000)
    assert not disk.directory.exists()


@pytest.mark.parametrize("pace", [Pace(0.05), Pace(0.01, 1), FAST])
async def test_a_way_at_a_pace(pace):
    received = asyncio.Queue()

    async def echo(reader, writer):
        while data := await reader.read(1000):
            received.put_nowait(data)
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with Proxy(f"127.0.0.1:{port}") as way:
        host, _, way_port = way.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(way_port))
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        way.go(pace)
        began = time.monotonic()
        writer.write(b"some bytes")
        assert await reader.readexactly(10) == b"some bytes"
        assert time.monotonic() - began >= 2 * pace.seconds
        if pace.piece == 1:
            assert received.qsize() > 1
        writer.close()
    server.close()
