"""A curve in one line of text."""

import math

import pytest
import torch

from gradclip.cli.sparkline import ASCII, BLOCKS, sparkline


@pytest.mark.parametrize(
    ("values", "width", "curve"),
    [
        ([1.0, 10.0, 100.0, 1e7], 4, "▁▂▃█"),
        ([2.0] * 9, 3, "▅▅▅"),
        ([1.0, math.inf, math.nan, 0.0, 128.0], 5, "▁   █"),
        ([1.0, 1.0, 64.0, 2.0, 2.0, 2.0], 2, "▁█"),  # one of three far off is no level
        ([math.nan], 5, " "),
        ([], 5, " "),
        ([5.0, 5.0 * (1 + 1e-9)], 2, "▅▅"),
    ],
)
def test_characters_stand_for_logarithms(values: list[float], width: int, curve: str) -> None:
    assert sparkline(torch.tensor(values), width) == curve


def test_a_terminal_without_blocks_gets_letters() -> None:
    rising = torch.logspace(0, 1, 8)
    assert sparkline(rising, 8) == BLOCKS
    assert sparkline(rising, 8, "ascii") == ASCII == sparkline(rising, 8, "latin-1")
