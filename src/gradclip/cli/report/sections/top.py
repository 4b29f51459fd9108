"""The top of the page: what run this is, what it says, and the numbers that matter."""

import math

from gradclip.analysis.amounts import percent, several
from gradclip.cli.report.facts import Facts
from gradclip.cli.report.findings import Finding, Findings
from gradclip.cli.report.html import Html, code, exact, join, tag, text
from gradclip.cli.report.verdict import WORDS
from gradclip.cli.report.words import UNKNOWN, amount, count, moment

THEMES = ("auto", "light", "dark")


def top(findings: Findings, written: float, version: str) -> Html:
    """Return the head of the page."""
    first = findings.first
    names = ", ".join(f"“{run.name}”" for run in findings.runs[1:])
    against = [tag("p", text("Compared with "), text(names), class_="quiet")] if findings.many else []
    made = f"Report of {moment(written)}, gradclip {version}"
    return tag(
        "header",
        tag("div", tag("span", text("gradclip report")), _themes(), class_="top"),
        tag("div", tag("h1", text(first.run.name)), *against, _meta(first, made), class_="title"),
    )


def _themes() -> Html:
    radios = (
        tag(
            "label", tag("input", type="radio", name="theme", value=theme, autocomplete="off"), text(theme.capitalize())
        )
        for theme in THEMES
    )
    return tag("fieldset", tag("legend", text("Colours"), class_="unseen"), join(radios))


def _meta(first: Finding, made: str) -> Html:
    series = first.run.series
    parts = [tag("span", text(made))]
    if series.times is not None and bool((known := series.times[series.times.isfinite()]).numel()):
        begun, ended = moment(known.min().item()), moment(known.max().item())
        parts.insert(0, tag("span", text(f"Recorded {begun}" if begun == ended else f"Recorded {begun} to {ended}")))
    if series.policy:
        parts.insert(0, tag("span", text("Policy "), code(series.policy)))
    return tag("p", *parts, class_="meta")


def verdict(finding: Finding) -> Html:
    """Return what the run says, with the advice below it."""
    tone, sentence = finding.verdict
    return tag(
        "div",
        tag("p", text(WORDS[tone]), class_="tone"),
        tag("p", text(sentence), class_="says", id="verdict"),
        tag("p", text(finding.advice.headline), class_="quiet"),
        class_=f"verdict {tone}",
    )


def facts(found: Facts) -> Html:
    """Return the numbers that matter."""
    after = "" if not found.largest_after < found.largest else f"; at most {amount(found.largest_after)} after clipping"
    fates = "all norms finite" if not found.nonfinite else f"{several(found.nonfinite, 'norm')} not finite"
    steps = exact(found.steps, count(found.steps), id="fact-steps")
    some = found.nonfinite < found.steps
    return tag(
        "dl",
        _fact("Steps", steps, f"{count(found.first)} to {count(found.last)}"),
        _share_clipped(found),
        _fact("Median norm", _norm(found.median, "fact-median"), f"99 % are below {amount(found.p99)}" if some else ""),
        _fact(
            "Largest norm",
            _norm(found.largest, "fact-largest"),
            f"step {count(found.largest_step)}{after}" if some else "",
        ),
        _fact("Skipped", _counted(found.skipped, "fact-skipped"), fates),
        class_="facts",
    )


def _norm(value: float, name: str) -> Html:
    return tag("span", text("none"), class_="unknown") if math.isnan(value) else exact(value, amount(value), id=name)


def _share_clipped(found: Facts) -> Html:
    if found.clipped is None:
        return _fact("Clipped", tag("span", text(UNKNOWN), class_="unknown"), "neither steps nor thresholds")
    share = exact(found.share_clipped, percent(found.share_clipped), id="fact-clipped")
    return _fact("Clipped", share, several(found.clipped, "step"))


def _counted(number: int | None, name: str) -> Html:
    return tag("span", text(UNKNOWN), class_="unknown") if number is None else exact(number, count(number), id=name)


def _fact(name: str, figure: Html, note: str) -> Html:
    shown = tag("dd", figure, class_="figure")
    return tag("div", tag("dt", text(name)), shown, tag("dd", text(note), class_="note"))
