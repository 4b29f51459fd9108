"""The pages of the site: what they tell a reader to type works, and what they link to is there."""

import re
from pathlib import Path
from urllib.parse import urlparse

import pytest

from gradclip.records.alarms import MEANINGS

DOCS = Path(__file__).parents[2] / "docs"

BY_RANKS = DOCS / "how-to" / "distributed.md"
"""Its blocks are one script for four ranks, which `tests/examples` runs."""

BY_SECTION = DOCS / "tutorials" / "quickstart.md"
"""Each of its blocks is a script of its own, which `test_quickstart.py` runs."""

PAGES = sorted(DOCS.rglob("*.md"))
WITH_CODE = [x for x in PAGES if "```python\n" in x.read_text("utf-8") and x not in {BY_RANKS, BY_SECTION}]


def name(page: Path) -> str:
    return str(page.relative_to(DOCS))


def blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), flags=re.DOTALL)


@pytest.mark.parametrize("page", WITH_CODE, ids=name)
def test_the_code_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Block after block, as a reader goes through it; they assert by themselves what they promise."""
    monkeypatch.chdir(tmp_path)  # they may write files
    namespace: dict[str, object] = {}
    for block in blocks(page):
        exec(compile(block, name(page), "exec"), namespace)  # noqa: S102 -- our own page


@pytest.mark.parametrize("alarm", MEANINGS)
def test_the_page_has_the_words_of_alarms(alarm: str) -> None:
    """Those that a terminal and a report show."""
    assert f'| `"{alarm}"` | {MEANINGS[alarm]} |\n' in (DOCS / "reference" / "records.md").read_text("utf-8")


def test_the_first_tutorial_is_the_same_in_both_languages() -> None:
    """Line by line, but for comments."""
    english, chinese = (DOCS / "tutorials" / f"first-run{end}.md" for end in ("", ".zh-CN"))
    codes = [[re.sub(r"#.*", "", block) for block in blocks(page)] for page in (english, chinese)]
    assert codes[0] == codes[1]
    assert len(codes[0]) > 2


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_external_links_are_well_formed(page: Path) -> None:
    """Nothing is fetched here; links within the site are checked when it is built."""
    for link in re.findall(r"\]\((\w+:[^)]*)\)", page.read_text("utf-8")):
        parts = urlparse(link)
        assert parts.scheme == "https", link
        assert re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", parts.netloc), link
        if parts.netloc == "arxiv.org":
            assert re.fullmatch(r"/abs/\d{4}\.\d{4,5}", parts.path), link


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md", "CONTRIBUTING.md", "examples/README.md"])
def test_links_of_pages_beside_the_site_are_there(name: str) -> None:
    """Those within the site are checked when it is built."""
    page = DOCS.parent / name
    for link in re.findall(r"\]\(([^):]+)\)", page.read_text("utf-8")):
        assert (page.parent / link.partition("#")[0]).exists(), link
