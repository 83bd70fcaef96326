"""The blocking client among threads, signals and processes."""

import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from scripted import Hang, page, started
from treering import Client, ClientClosed, Event, TreeringError
from waiting_sync import eventually

CLIENT = str(Path(__file__).resolve().parents[2] / "client")


def test_any_thread_may_append(address, name):
    with Client(address) as client, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: client.append(name, Event("A", n)), range(200)))
        versions = sorted(answer.versions[name] for answer in answers)
        assert versions == list(range(1, 201))
        assert len(client.read(name).to_list()) == 200


def test_closing_from_another_thread_ends_a_subscription(scripted):
    scripted.script("Subscribe", [started(), Hang()])
    with Client(scripted.address) as client, ThreadPoolExecutor(1) as pool:
        subscription = client.subscribe()
        consumer = pool.submit(lambda: list(subscription))
        eventually(lambda: scripted.open_calls == 1)
        time.sleep(0.1)
        subscription.close()
        assert len(consumer.result(2)) == 1


def test_closing_the_client_from_another_thread_ends_a_subscription(scripted):
    scripted.script("Subscribe", [started(), Hang()])
    client = Client(scripted.address)
    with ThreadPoolExecutor(1) as pool:
        consumer = pool.submit(lambda: list(client.subscribe()))
        eventually(lambda: scripted.open_calls == 1)
        time.sleep(0.1)
        client.close()
        assert len(consumer.result(2)) == 1


def test_closing_the_client_from_another_thread_is_an_error_in_a_read(scripted):
    scripted.script("Read", [page(1), Hang()])
    client = Client(scripted.address)
    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(lambda: list(client.read()))
        eventually(lambda: scripted.open_calls == 1)
        time.sleep(0.1)
        client.close()
        with pytest.raises(ClientClosed):
            reader.result(2)


def test_closing_ends_the_wait_for_another_attempt():
    client = Client("127.0.0.1:1", timeout=None)
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(lambda: list(client.subscribe()))
        asking = pool.submit(client.head)
        time.sleep(0.5)
        client.close()
        assert waiting.result(2) == []
        with pytest.raises(ClientClosed):
            asking.result(2)


def test_closing_waits_for_appends_of_other_threads(scripted):
    scripted.appends.append(Hang())
    client = Client(scripted.address)
    with ThreadPoolExecutor(1) as pool:
        append = pool.submit(client.append, "s", Event("A"))
        eventually(lambda: bool(scripted.requests["Append"]))
        begun = time.monotonic()
        client.close(grace=0.3)
        assert 0.2 < time.monotonic() - begun < 2
        with pytest.raises(ClientClosed) as raised:
            append.result(2)
        assert raised.value.outcome_unknown


PROGRAM = """
import sys, threading
sys.path.insert(0, {client!r})
import treering

client = treering.Client({address!r}, timeout={timeout})
try:
    print("ready", flush=True)
    {wait}
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.parametrize(
    "wait",
    [
        "list(client.subscribe())",
        "list(client.read())",
        "client.append('s', treering.Event('A'))",
        "client.head()",
    ],
)
def test_ctrl_c_interrupts_every_wait(scripted, wait):
    scripted.appends.append(Hang())
    program = PROGRAM.format(client=CLIENT, address=scripted.address, timeout=60, wait=wait)
    run_and_interrupt(program, lambda: bool(scripted.requests))


def test_ctrl_c_interrupts_the_wait_for_another_attempt():
    wait = "client.head()"
    program = PROGRAM.format(client=CLIENT, address="127.0.0.1:1", timeout=60, wait=wait)
    run_and_interrupt(program, lambda: True)


def run_and_interrupt(program, is_waiting):
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            eventually(is_waiting)
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=5)
        finally:
            process.kill()
    assert output == "interrupted\n"
    assert process.returncode == 0, errors


def test_after_ctrl_c_nothing_is_lost(scripted, monkeypatch):
    from scripted import events

    scripted.script("Subscribe", [started(), events(1), Hang()], [started(1), events(2)])
    with Client(scripted.address) as client:
        subscription = client.subscribe()
        positions = subscription.events()
        assert next(positions).position == 1
        timer = threading.Timer(0.3, signal.raise_signal, [signal.SIGINT])
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            next(subscription)
        timer.join()
        assert next(subscription.events()).position == 2
    assert [r.after_position for r in scripted.requests["Subscribe"]] == [0, 1]


def test_a_read_that_was_interrupted_is_not_passed_off_for_the_whole(scripted):
    scripted.script("Read", [page(1), Hang()])
    with Client(scripted.address) as client:
        reading = client.read()
        assert next(reading).position == 1
        timer = threading.Timer(0.3, signal.raise_signal, [signal.SIGINT])
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            next(reading)
        timer.join()
        with pytest.raises(TreeringError, match="interrupted"):
            reading.to_list()
        eventually(lambda: scripted.cancelled == ["Read"])


def test_closing_ends_a_call_under_way(scripted):
    scripted.script("GetHead", [Hang()])
    client = Client(scripted.address)
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(client.head)
        eventually(lambda: bool(scripted.requests))
        client.close()
        with pytest.raises(ClientClosed):
            asking.result(2)


def test_a_forgotten_client_does_not_keep_the_program_alive(scripted):
    scripted.script("Subscribe", [started(), Hang()])
    program = PROGRAM.format(
        client=CLIENT, address=scripted.address, timeout=60, wait="next(client.subscribe())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=False, timeout=10
    )
    assert done.returncode == 0
    assert done.stderr == b""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_client_says_that_it_does_not_survive_a_fork(scripted):
    program = f"""
import os, sys
sys.path.insert(0, {CLIENT!r})
import treering

client = treering.Client({scripted.address!r})
client.append("s", treering.Event("A"))
child = os.fork()
if child == 0:
    try:
        client.append("s", treering.Event("A"))
    except RuntimeError as error:
        os._exit(7 if "fork" in str(error) else 1)
    os._exit(2)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=False, timeout=20
    )
    assert done.returncode == 7, done.stderr


def test_readers_in_many_threads_have_their_own_patience(scripted):
    scripted.script("Read", *[[page(1), Hang()]] * 20)
    with Client(scripted.address) as client, ThreadPoolExecutor(20) as pool:

        def read(number):
            begun = time.monotonic()
            with pytest.raises(Exception, match="nothing came"):
                client.read(timeout=0.2 + number % 3 * 0.2).to_list()
            return time.monotonic() - begun

        waited = list(pool.map(read, range(20)))
    for number, seconds in enumerate(waited):
        assert 0.15 + number % 3 * 0.2 < seconds < 2
