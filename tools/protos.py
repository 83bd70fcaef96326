"""Makes the Python stubs in client/treering/v1 from protos/treering/v1.

    python tools/protos.py           makes them
    python tools/protos.py --check   fails, by name, if any of them is not what would be made

Folder, package and import path of the protos agree, so that what the compiler writes is kept
as it is.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
CLIENT = ROOT / "client"
STUBS = Path("treering/v1")
"""Where stubs lie below any folder that they are made into: their package."""


def compile_protos(*options: str) -> None:
    """Runs the protocol compiler over all of our files."""
    files = sorted(str(file.relative_to(PROTOS)) for file in PROTOS.rglob("*.proto"))
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", *options, *files]
    subprocess.run(command, check=True)


def descriptors() -> FileDescriptorSet:
    """Our files as the compiler understands them, comments and all."""
    with tempfile.TemporaryDirectory() as scratch:
        image = Path(scratch) / "image.binpb"
        compile_protos(f"--descriptor_set_out={image}", "--include_source_info")
        return FileDescriptorSet.FromString(image.read_bytes())


def make_stubs(folder: Path) -> None:
    """Makes all stubs below a folder."""
    # Beside the interpreter, which need not be on the path.
    plugin = Path(sys.executable).with_name("protoc-gen-mypy_grpc")
    compile_protos(
        f"--python_out={folder}",
        f"--pyi_out={folder}",
        f"--grpc_python_out={folder}",
        f"--plugin=protoc-gen-mypy_grpc={plugin}",
        f"--mypy_grpc_out=quiet:{folder}",
    )
    # The plugins write these for every file, with nothing in them where it has no service.
    for file in descriptors().file:
        if not file.service:
            for suffix in ("_pb2_grpc.py", "_pb2_grpc.pyi"):
                (folder / file.name.replace(".proto", suffix)).unlink()


def stubs_in(folder: Path) -> dict[str, bytes]:
    """The stubs that are there, by name."""
    return {file.name: file.read_bytes() for file in (folder / STUBS).glob("*_pb2*.py*")}


def check(wanted: dict[str, bytes], found: dict[str, bytes]) -> list[str]:
    """What is wrong with the stubs found, a line each."""
    problems = [f"missing: {name}" for name in sorted(wanted.keys() - found.keys())]
    problems += [f"of no proto: {name}" for name in sorted(found.keys() - wanted.keys())]
    common = sorted(wanted.keys() & found.keys())
    problems += [f"out of date: {name}" for name in common if wanted[name] != found[name]]
    return problems


def main(arguments: Sequence[str] | None = None) -> int:
    """Makes or checks the stubs."""
    parser = argparse.ArgumentParser(description="Makes the Python stubs from the protos.")
    parser.add_argument("--check", action="store_true", help="only look whether they are right")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch)
        make_stubs(made)
        wanted, found = stubs_in(made), stubs_in(CLIENT)
        if options.check:
            problems = check(wanted, found)
            for problem in problems:
                print(f"{STUBS}: {problem}")
            if problems:
                print("Run `make protos`.")
            return 1 if problems else 0
        for name in found.keys() - wanted.keys():
            (CLIENT / STUBS / name).unlink()
        shutil.copytree(made / STUBS, CLIENT / STUBS, dirs_exist_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
