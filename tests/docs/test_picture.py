"""The picture in the README shows what its commands still show."""

import subprocess
import sys

from pages import DOCS, ROOT


def test_the_picture_shows_what_is_so() -> None:
    script = DOCS / "images" / "make_session.py"
    ended = subprocess.run(
        [sys.executable, str(script), "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
