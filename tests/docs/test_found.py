"""What the page on testing says of bugs: the tests that find them again are there."""

import re

from pages import DOCS, ROOT

ROW = re.compile(r"\| `(tests/\S+\.py)(?: -k (\w+))?` \|$", re.MULTILINE)


def test_every_bug_has_its_test() -> None:
    page = (DOCS / "guide" / "how-we-test.md").read_text("utf-8")
    rows = ROW.findall(page)
    assert len(rows) > 10
    for file, name in rows:
        text = (ROOT / file).read_text("utf-8")
        assert re.search(rf"^(async )?def test_\w*{name}", text, re.MULTILINE), (file, name)
