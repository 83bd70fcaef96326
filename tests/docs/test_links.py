"""Links lead somewhere, and pages say nothing of the machine that they were written on."""

import re
from pathlib import Path

import pytest

import pages
from pages import DOCS, ROOT

LINK = re.compile(r"\]\(([^)\s]+)\)")
PAGES = [*pages.pages(), DOCS / "reference" / "api.md", ROOT / "CHANGELOG.md"]
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def without_code(page: Path) -> str:
    return re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    found = HEADING.findall(without_code(page))
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in found}


@pytest.mark.parametrize("page", PAGES, ids=map(pages.name_of, PAGES))
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(without_code(page)):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file), target


def test_every_page_is_reached_from_the_index() -> None:
    def linked(page: Path) -> set[Path]:
        found = LINK.findall(without_code(page))
        return {(page.parent / each.partition("#")[0]).resolve() for each in found}

    reached = linked(DOCS / "README.md") | linked(DOCS / "decisions" / "README.md")
    assert set(DOCS.rglob("*.md")) - {DOCS / "README.md"} <= reached


def test_every_promise_has_its_test() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    for test in (ROOT / "tests" / "contract").glob("test_promise_*.py"):
        assert f"(tests/contract/{test.name})" in readme


def test_decisions_are_listed_with_their_status() -> None:
    index = (DOCS / "decisions" / "README.md").read_text("utf-8")
    for page in (DOCS / "decisions").glob("0*.md"):
        head = re.match(r"# (\d+): .+\n\nStatus: (.+)\n", page.read_text("utf-8"))
        assert head is not None, page.name
        number, status = head.groups()
        row = rf"^\| \[{number}\]\({page.name}\) \| .+ \| {status} \|$"
        assert re.search(row, index, re.MULTILINE), page.name
