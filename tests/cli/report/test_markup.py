"""The source of the page: whole, named, and readable without seeing it."""

import itertools
import re

import pytest

from cli.report.markup import Element, by_id, parsed
from gradclip.cli.page.build import moment, prose
from gradclip.cli.words import amount, printable, shortened


@pytest.fixture(scope="module")
def tree(source: str) -> Element:
    return parsed(source)


def test_it_is_a_page_of_its_own(tree: Element, source: str) -> None:
    """Nothing is loaded from anywhere."""
    assert source.startswith("<!doctype html>\n")
    assert tree.all("html")[0].attributes["lang"] == "en"
    assert tree.all("title")[0].text == "run.jsonl: gradient clipping report"
    loaded = [e for e in tree.everything() if {"src", "srcset", "data"} & set(e.attributes) or e.name == "link"]
    assert loaded == []
    assert [e.attributes["href"] for e in tree.everything() if "href" in e.attributes] == ["#main"]
    style = "".join(element.text for element in tree.all("style"))
    assert "url(" not in style and "@import" not in style
    (policy,) = (e.attributes["content"] for e in tree.all("meta") if "http-equiv" in e.attributes)
    assert policy is not None and policy.startswith("default-src 'none'")


def test_headings_are_in_order(tree: Element) -> None:
    levels = [int(e.name[1]) for e in tree.everything() if re.fullmatch("h[1-6]", e.name)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in itertools.pairwise(levels))


def test_ids_are_given_once_and_every_control_has_a_name(tree: Element) -> None:
    ids = [e.attributes["id"] for e in tree.everything() if "id" in e.attributes]
    assert len(ids) == len(set(ids)) > 20
    for field in tree.all("input"):
        assert field.within("label") and field.within("fieldset")
    assert all(e.all("legend")[0].text for e in tree.all("fieldset"))


def test_charts_have_words_beside_them(tree: Element) -> None:
    charts = [e for e in tree.everything() if "data-chart" in e.attributes]
    assert len(charts) == 6
    for chart in charts:
        assert chart.attributes["role"] == "img"
        assert len(chart.attributes["aria-label"] or "") > 20
        assert chart.within("figure")
        assert chart.parent is not None and len(chart.parent.all("figcaption")[0].text) > 20
    norms = by_id(tree, "chart-norms").attributes["aria-label"]
    assert norms is not None
    assert re.search(r"over 2,000 steps of run\.jsonl: median 0\.\d+, largest 321 at step 1,500\.", norms)


def test_tables_say_what_they_hold_and_keep_their_meaning_on_a_phone(tree: Element) -> None:
    assert len(tree.all("table")) == 6
    for table in tree.all("table"):
        assert len(table.all("caption")[0].text) > 10
        heads = [head.text for head in table.all("thead")[0].all("th")]
        for row in table.all("tbody")[0].all("tr"):
            assert [cell.attributes["role"] for cell in row.children] == ["rowheader"] + ["cell"] * (len(heads) - 1)
            assert [cell.attributes["data-label"] for cell in row.children[1:]] == heads[1:]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (0.83417, "0.8342"),
        (999.96, "1,000"),
        (1234.5, "1,234"),
        (987654.3, "987,700"),
        (1.23456e6, "1.235e+06"),
        (3.2e-7, "3.2e-07"),
        (float("nan"), "not finite"),
        (float("inf"), "infinite"),
    ],
)
def test_amounts_have_four_digits(value: float, shown: str) -> None:
    assert amount(value) == shown


def test_what_nobody_sees_is_spelled_out() -> None:
    assert printable("a\nb\u202e\ud800\x1b") == "a\\nb\\u202e\\ud800\\x1b"
    assert printable("größe 層") == "größe 層"
    assert shortened("ab" * 200, 20) == "ababababa \N{HORIZONTAL ELLIPSIS} babababab"
    assert len(shortened("x" * 161)) == 161 and shortened("x" * 160) == "x" * 160


def test_a_moment_is_in_utc() -> None:
    assert moment(1.7e9) == "2023-11-14 22:13 UTC"
    assert moment(float("inf")) == "not recorded"


def test_words_in_backticks_are_code_and_all_is_escaped() -> None:
    assert prose("Say `by_name`, not `<b>`; <i> and `open") == (
        "Say <code>by_name</code>, not <code>&lt;b&gt;</code>; &lt;i&gt; and `open"
    )
    assert prose("plain & simple") == "plain &amp; simple"
