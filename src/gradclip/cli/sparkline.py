"""A curve in one line of text."""

import math

import torch
from torch import Tensor

BLOCKS = "▁▂▃▄▅▆▇█"
ASCII = "_.-=*%#@"
"""The same on a terminal that has no blocks."""


def sparkline(values: Tensor, width: int, encoding: str = "utf-8") -> str:
    """Return the logarithm of numbers > 0 as a row of characters, the highest for the largest.

    Args:
        values: The numbers, of shape (n,). A character stands for the median of some in a row: a blank where none is
            finite and > 0.
        width: Characters, at most.
        encoding: What must be able to say it.

    Example:
        >>> import torch
        >>> from gradclip.cli.sparkline import sparkline
        >>> sparkline(torch.tensor([1.0, 2.0, 4.0, 128.0]), 4, "ascii")
        '_.-@'
    """
    try:
        BLOCKS.encode(encoding)
        levels = BLOCKS
    except UnicodeEncodeError:
        levels = ASCII
    logs = torch.where(values.isfinite() & (values > 0.0), values, math.nan).double().log()
    medians = [torch.nanmedian(piece).item() for piece in logs.tensor_split(max(1, min(width, len(logs))))]
    known = [median for median in medians if not math.isnan(median)]
    low, high = min(known, default=0.0), max(known, default=0.0)
    step = (high - low) / (len(levels) - 1)
    if step < 1e-6:  # noqa: PLR2004 -- the same but for rounding
        low, step = low - len(levels) // 2, 1.0
    return "".join(" " if math.isnan(median) else levels[round((median - low) / step)] for median in medians)
