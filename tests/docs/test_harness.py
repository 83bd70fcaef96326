"""What runs the pages notices what is wrong with them."""

from collections.abc import Callable
from pathlib import Path

import pytest

import pages
import running
import terminal

PAGE = """\
# A page

```console
$ echo "one
> two"
one
two
$ false
$ echo $?
1
$ pwd
/srv/demo
```

```python
n = 1
print("n is", n)
```

```text
n is 1
```

<!-- not run: it would fail -->
```python
1 / 0
```

```python
n += 1
print("2026-01-01T00:00:00Z", n)
print("more")
```

```text
2025-12-31 10:00:00.123+00:00 2
...
```
"""


@pytest.fixture
def wrong(tmp_path: Path) -> Callable[[str], list[str]]:
    """Gives what is wrong with a page."""

    def wrong(text: str) -> list[str]:
        run = running.PageRun("page.md", "127.0.0.1:1", tmp_path)
        blocks = pages.runnable(text.split("\n"))
        return [shown.what for each in blocks for shown in run.run(each) if not shown.agrees]

    return wrong


def test_a_page_that_is_right(wrong):
    assert wrong(PAGE) == []


@pytest.mark.parametrize(
    ("before", "after", "what"),
    [
        ("one\ntwo\n$", "one\n$", '$ echo "one\ntwo"'),
        ("$ false\n", "$ false\nfalse\n", "$ false"),
        ("```text\nn is 1", "```text\nn is 2", "the program in line 16"),
        ("```text\nn is 1\n```", "", "the program in line 16"),
        ("123+00:00 2\n...", "123+00:00 2", "the program in line 30"),
        ("n += 1", "n += m", "the program in line 30"),
        ("<!-- not run: it would fail -->\n", "", "the program in line 25"),
        ("$ pwd\n/srv", "$ pwd; false\n/other", "$ pwd; false"),
    ],
)
def test_a_page_that_is_wrong(wrong, before, after, what):
    assert before in PAGE
    assert what in wrong(PAGE.replace(before, after))


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("a\r\nb\r\n", "a\nb\n"),
        ("\x1b[1mbold\x1b[0m  ", "bold"),
        ("progress 1%\rprogress 2%\x1b[2K\rdone", "done"),
        ("bar\r\n\x1b[1A\x1b[2Kgone", "gone\n"),
        ("abc\rX\x1b[K", "X"),
    ],
)
def test_the_screen(written, shown):
    assert terminal.screen(written) == shown
