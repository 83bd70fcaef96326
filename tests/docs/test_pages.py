"""What the pages show is what comes of it."""

from pathlib import Path

import pytest

import pages
import running

RUN = [page for page in pages.pages() if pages.runnable(page.read_text("utf-8").split("\n"))]


@pytest.mark.parametrize("page", RUN, ids=map(pages.name_of, RUN))
def test_what_a_page_shows_is_what_comes_of_it(page: Path, tmp_path: Path) -> None:
    wrong = []

    def compare(shown: running.Shown) -> None:
        if not shown.agrees:
            wrong.append(
                f"{pages.name_of(page)}:{shown.first + 1}: {shown.what}\nshows\n\n{shown.shown}\n"
                f"and not\n\n" + "\n".join(shown.said)
            )

    (tmp_path / "server").mkdir()
    (tmp_path / "work").mkdir()
    with running.ServerThread(tmp_path / "server") as server:
        running.run_page(page, tmp_path / "work", compare, server=server)

    assert not wrong, "\n\n".join(wrong)
