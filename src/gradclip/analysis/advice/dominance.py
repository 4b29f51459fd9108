"""Which parameters make up the total norm."""

import math

from gradclip.analysis.series import Series

MOST_STEPS = 2000
"""Steps whose norms of parameters are looked at: of more, so many spread evenly."""


def dominating(series: Series, first_step: int, count: int = 5) -> tuple[tuple[str, float], ...]:
    """Return the parameters with the largest mean share of the squared norm, the largest first.

    Args:
        series: The run.
        first_step: The step from which on it counts.
        count: How many parameters to return at most.

    Returns:
        Pairs of name and share in [0, 1]; empty where norms of parameters were not recorded. Each step counts the same,
        however large its norm; steps with a norm that is not finite do not count.
    """
    recorded = [norms for step, norms in series.each if step >= first_step]
    recorded = recorded[:: max(1, math.ceil(len(recorded) / MOST_STEPS))]
    sums: dict[str, float] = {}
    counted = 0
    for norms in recorded:
        largest = max(norms.values(), default=0.0)
        if not largest > 0.0 or not all(map(math.isfinite, norms.values())):
            continue
        squares = {name: (norm / largest) ** 2 for name, norm in norms.items()}  # of which no sum overflows
        total = math.fsum(squares.values())
        for name, square in squares.items():
            sums[name] = sums.get(name, 0.0) + square / total
        counted += 1
    shares = sorted(((name, share / counted) for name, share in sums.items()), key=lambda pair: -pair[1])
    return tuple(shares[:count])
