"""What is made from the asynchronous client is up to date, and the check would notice."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tools"))

import sync_client  # noqa: E402


def test_the_blocking_client_is_up_to_date():
    done = subprocess.run(
        [sys.executable, "tools/sync_client.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stdout


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A copy of all that takes part, and of what lies around it: ruff sorts imports by what
    it finds in the folders."""
    ignored = shutil.ignore_patterns("__pycache__")
    for folder in ("client/treering", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    (tmp_path / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    monkeypatch.setattr(sync_client, "ROOT", tmp_path)
    return tmp_path


def changes():
    def cut_off(path):
        path.write_bytes(path.read_bytes()[:-200])

    def empty(path):
        path.write_bytes(b"")

    def edit(path):
        path.write_text(path.read_text().replace("def ", "def  ", 1))

    def remove(path):
        path.unlink()

    return [cut_off, empty, edit, remove]


@pytest.mark.parametrize("change", changes(), ids=lambda change: change.__name__)
def test_a_stale_file_is_named_and_made_anew(elsewhere, capsys, change):
    path = elsewhere / "client/treering/_sync/subscription.py"
    was = path.read_bytes()
    change(path)
    assert sync_client.main(["--check"]) == 1
    named = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in named] == ["client/treering/_sync/subscription.py"]
    assert sync_client.main([]) == 0
    assert path.read_bytes() == was
    assert sync_client.main(["--check"]) == 0


def test_a_file_whose_source_is_gone_is_named_and_removed(elsewhere, capsys):
    orphan = elsewhere / "tests/client/test_sync_gone.py"
    orphan.write_text("")
    assert sync_client.main(["--check"]) == 1
    assert "test_sync_gone.py" in capsys.readouterr().out
    assert sync_client.main([]) == 0
    assert not orphan.exists()


def test_a_changed_source_makes_its_result_stale(elsewhere, capsys):
    source = elsewhere / "client/treering/_async/reading.py"
    source.write_text(source.read_text() + "\nMORE = 1\n")
    assert sync_client.main(["--check"]) == 1
    assert "client/treering/_sync/reading.py" in capsys.readouterr().out


def test_names_are_replaced_but_not_parts_of_them():
    source = '''
async def f(client: AsyncClient) -> None:
    """An AsyncClient; `async with` it, and await nothing, in asyncio."""
    async for event in client.read():  # await this
        await asyncio_like(anext(event), "await x", f"AsyncClients {event}")
'''
    assert (
        sync_client.to_sync(source)
        == '''
def f(client: Client) -> None:
    """An Client; `with` it, and nothing, in asyncio."""
    for event in client.read():  # this
        asyncio_like(next(event), "x", f"AsyncClients {event}")
'''
    )


def test_both_clients_have_the_same_methods():
    import inspect

    import treering

    pairs = [
        (treering.AsyncClient, treering.Client),
        (treering.AsyncReading, treering.Reading),
        (treering.AsyncSubscription, treering.Subscription),
    ]
    for ours, theirs in pairs:
        methods = {name for name in vars(ours) if not name.startswith("_")}
        assert methods == {name for name in vars(theirs) if not name.startswith("_")}
        for name in methods:
            one, other = getattr(ours, name), getattr(theirs, name)
            if callable(one):
                assert list(inspect.signature(one).parameters) == list(
                    inspect.signature(other).parameters
                )
                assert inspect.getdoc(other)
