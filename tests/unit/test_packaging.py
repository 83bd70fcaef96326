"""The wheel holds all that it takes to serve and to call, and the pins are what is asked for."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from hatchling import build
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = [
    ROOT / name for name in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
]
STUBS = ROOT / "client" / "treering" / "v1"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built as it is for a release, though from what is installed."""
    folder = tmp_path_factory.mktemp("wheel")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return folder / build.build_wheel(str(folder))


def names(wheel):
    return set(zipfile.ZipFile(wheel).namelist())


def metadata(wheel, name):
    archive = zipfile.ZipFile(wheel)
    [path] = [path for path in archive.namelist() if path.endswith(f".dist-info/{name}")]
    return archive.read(path).decode()


def test_the_wheel_holds_every_file_of_the_packages_and_no_other(wheel):
    sources = {
        str(file.relative_to(package.parent))
        for package in PACKAGES
        for file in package.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }

    assert {name for name in names(wheel) if ".dist-info/" not in name} == sources


@pytest.mark.parametrize(
    "name",
    [
        "treering/py.typed",
        "treering/v1/event_pb2.py",
        "treering/v1/event_pb2.pyi",
        "treering/v1/event_store_service_pb2_grpc.py",
        "treering/v1/event_store_service_pb2_grpc.pyi",
        "treering_server/py.typed",
        "treering_migrations/env.py",
        "treering_migrations/versions/v0001_log.py",
    ],
)
def test_the_wheel_holds(wheel, name):
    assert name in names(wheel)


def test_the_wheel_holds_the_licence_and_the_command(wheel):
    assert "Apache License" in metadata(wheel, "licenses/LICENSE")
    assert "treering = treering.cli.main:main" in metadata(wheel, "entry_points.txt")


def test_the_unpacked_wheel_makes_a_database_by_its_migrations(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "unpacked")
    program = f"""
import treering_migrations
from treering_server.storage.database import open_database
assert {str(tmp_path)!r} in treering_migrations.__file__
database = open_database("sqlite:///{tmp_path}/treering.db", readers=1, migrate=True)
print(database.storage.head().position)
database.storage.close()
"""

    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "unpacked")},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr


def floor(name):
    """The lowest version of a package that the project takes."""
    [requirement] = [
        requirement
        for requirement in map(Requirement, PROJECT["project"]["dependencies"])
        if requirement.name == name
    ]
    [specifier] = requirement.specifier
    assert specifier.operator == ">="
    return Version(specifier.version)


def test_no_grpcio_is_taken_that_the_stubs_refuse():
    needed = {
        match[1]
        for file in STUBS.glob("*_pb2_grpc.py")
        for match in re.finditer(r"GRPC_GENERATED_VERSION = '(.+)'", file.read_text())
    }

    assert needed
    assert floor("grpcio") >= max(map(Version, needed))


def test_no_protobuf_is_taken_that_the_stubs_refuse():
    needed = {
        match[1]
        for file in STUBS.glob("*_pb2.py")
        for match in re.finditer(r"# Protobuf Python Version: (\S+)", file.read_text())
    }

    assert needed
    assert floor("protobuf") >= max(map(Version, needed))


def pins(name):
    """The versions that a file of requirements pins, by name."""
    text = (ROOT / "requirements" / name).read_text()
    return {
        canonicalize_name(match[1]): Version(match[2])
        for match in re.finditer(r"^([\w.-]+)==([^\s;]+)", text, re.MULTILINE)
    }


def asked_for(*, dev):
    """What the project asks for, as the files of requirements should pin it."""
    extras = PROJECT["project"]["optional-dependencies"]
    lines = [*PROJECT["build-system"]["requires"], *PROJECT["project"]["dependencies"]]
    lines += [*extras["cli"], *extras["server"]]
    if dev:
        lines += PROJECT["dependency-groups"]["dev"]
    return [line for line in map(Requirement, lines) if line.name != PROJECT["project"]["name"]]


@pytest.mark.parametrize("name", ["server.txt", "dev.txt"])
def test_what_is_asked_for_is_pinned(name):
    """If this fails: `make lock`."""
    pinned = pins(name)

    for requirement in asked_for(dev=name == "dev.txt"):
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement} is not in {name}"
        assert version in requirement.specifier, f"{requirement}, but {name} has {version}"


def test_what_serves_is_tested_at_the_same_versions():
    server, dev = pins("server.txt"), pins("dev.txt")

    assert server == {name: dev.get(name) for name in server}


@pytest.mark.parametrize("name", ["server.txt", "dev.txt"])
def test_pins_have_hashes_and_name_no_place(name):
    text = (ROOT / "requirements" / name).read_text()

    blocks = re.split(r"^(?=\w)", text, flags=re.MULTILINE)[1:]
    assert len(blocks) == len(pins(name))
    assert all("--hash=sha256:" in block for block in blocks)
    assert "://" not in text
