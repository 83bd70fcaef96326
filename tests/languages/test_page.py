"""What pages show of an example is in the example, word for word.

A block of code in a language that is not run by tests/docs has a comment before it that says where
it is from, and is a run of lines of that file, indented less or not:

    <!-- from client/go/example/accounts.go -->
"""

import re
import textwrap
from pathlib import Path

import pytest

from languages import EXAMPLES, ROOT

PAGES = [
    ROOT / "docs" / "guide" / "languages.md",
    *(language.folder / "README.md" for language in EXAMPLES),
]
SNIPPET = re.compile(
    r"(?:^<!-- from (?P<file>\S+) -->\n)?^```(?P<language>\w+)\n(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)")
ELSEWHERE = {"console", "python", "text", "sh"}
"""Run by tests/docs, or no code."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_snippets_are_in_the_examples(page: Path) -> None:
    for snippet in SNIPPET.finditer(page.read_text("utf-8")):
        if snippet["language"] in ELSEWHERE:
            continue
        code = snippet["code"]
        assert snippet["file"], f"from which file is this?\n{code}"
        lines = (ROOT / snippet["file"]).read_text("utf-8").splitlines()
        count = len(code.splitlines())
        parts = ("\n".join(lines[first : first + count]) for first in range(len(lines)))
        wanted = plain(code)
        assert any(plain(part) == wanted for part in parts), f"{snippet['file']} lacks\n{code}"


@pytest.mark.parametrize("page", PAGES[1:], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_readme_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text("utf-8")):
        assert (page.parent / target).exists(), target


def plain(code: str) -> str:
    """Without the indentation that all lines have."""
    return textwrap.dedent(code.expandtabs(4)).strip("\n")
