"""Colours: enough contrast on the page, and runs that everybody tells apart."""

import itertools
import math
import re
from importlib.resources import files

import pytest

from gradclip.cli.page import MOST_RUNS
from gradclip.cli.page.figures.style import COLOURS

STYLE = files("gradclip.cli.page").joinpath("assets", "page.css").read_text("utf-8")

# Hues turned by 180 degrees, as `hue-rotate` does it: W3C, Filter Effects Module Level 1, section 9.6, feColorMatrix.
TURNED = ((-0.574, 1.430, 0.144), (0.426, 0.430, 0.144), (0.426, 1.430, -0.856))

# How a colour is seen without one of the three kinds of cones, in linear RGB: Machado, Oliveira and Fernandes, A
# physiologically-based model for simulation of color vision deficiency, 2009, severity 1.
VISION = {
    "normal": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protan": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deutan": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritan": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}


def colours(theme: str) -> dict[str, str]:
    return COLOURS if theme == "light" else {name: turned(colour) for name, colour in COLOURS.items()}


def turned(colour: str) -> str:
    """As the style sheet has it in the dark."""
    (share,) = map(float, re.findall(r"--dark: invert\(([\d.]+)\) hue-rotate\(180deg\);", STYLE))
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    inverted = [share * (1 - part) + (1 - share) * part for part in parts]
    seen = [min(1.0, max(0.0, sum(map(float.__mul__, row, inverted)))) for row in TURNED]
    return "#" + "".join(f"{round(255 * part):02x}" for part in seen)


def linear(colour: str) -> list[float]:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]


def contrast(one: str, other: str) -> float:
    """As WCAG 2 defines it."""
    light, dark = sorted((0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in map(linear, (one, other))), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def lab(colour: str, vision: str) -> tuple[float, float, float]:
    """As CIELAB, in which distances are about as large as they look."""
    seen = [min(1.0, max(0.0, sum(map(float.__mul__, map(float, row), linear(colour))))) for row in VISION[vision]]
    r, g, b = seen
    x, y, z = (0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.95047, 0.2126 * r + 0.7152 * g + 0.0722 * b, 0.0
    z = (0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.08883
    f = [t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116 for t in (x, y, z)]
    return 116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_and_lines_have_contrast(theme: str) -> None:
    """AA: 4.5 for text, 3 for what a chart or a control is seen by."""
    known = colours(theme)
    for ground in ("page", "sunken"):
        for name in ("ink", "quiet", "accent", "good", "look", "bad"):
            assert contrast(known[name], known[ground]) >= 4.5, (name, ground)
    for name in ("cut", "control", *(f"run-{i + 1}" for i in range(MOST_RUNS))):
        assert contrast(known[name], known["page"]) >= 3.0, name


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_runs_are_told_apart_by_everybody(theme: str, vision: str) -> None:
    known = colours(theme)
    seen = [lab(known[f"run-{i + 1}"], vision) for i in range(MOST_RUNS)]
    assert min(math.dist(one, other) for one, other in itertools.combinations(seen, 2)) > 12


def test_the_paper_in_the_dark_is_what_that_in_the_light_turns_to() -> None:
    """Since paper is not turned, but for what lies on it."""
    assert f"background: light-dark({COLOURS['page']}, {turned(COLOURS['page'])});" in STYLE


def test_every_colour_of_the_style_sheet_is_known() -> None:
    named = set(re.findall(r"var\(--([\w-]+)\)", STYLE)) - {"dark", "share", "swatch", "tone"}
    assert named <= set(COLOURS)
