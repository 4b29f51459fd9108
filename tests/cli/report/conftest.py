"""A report over a run of training, and a browser to open it in."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.report.browser import Page, browser, find_browser
from cli.report.made import reported, training, write
from conftest import skip_without


@pytest.fixture(scope="session")
def records() -> list[dict[str, Any]]:
    """The steps of the run that most tests report on."""
    return training()


@pytest.fixture(scope="session")
def page_file(records: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report over them."""
    folder = tmp_path_factory.mktemp("report")
    reported(write(folder / "run.jsonl", records), folder / "report.html")
    return folder / "report.html"


@pytest.fixture(scope="session")
def source(page_file: Path) -> str:
    """The same, as text."""
    return page_file.read_text("utf-8")


@pytest.fixture(scope="session")
def shared_tab() -> Iterator[Page]:
    """One browser for all tests."""
    program = find_browser()
    if program is None:
        skip_without("browser", "no Chromium or Chrome is found that starts")
    assert program is not None
    with browser(program) as page:
        yield page


@pytest.fixture
def tab(shared_tab: Page) -> Page:
    """A tab as a reader with a large window and a light theme has it."""
    shared_tab.size(1440, 900)
    shared_tab.prefer(color_scheme="light")
    return shared_tab


@pytest.fixture
def opened(tab: Page, page_file: Path) -> Page:
    """The report over the run of `records`, in this tab."""
    tab.open(page_file)
    return tab
