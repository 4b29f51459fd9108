"""Numbers as people read them."""


def digits(value: float) -> str:
    """Return a number with three significant digits, as Python reads it.

    Example:
        >>> [digits(x) for x in (0.83417, 1234.5, 3.21e-7, 12.0)]
        ['0.834', '1230', '3.21e-07', '12']
    """
    return f"{float(f'{value:.3g}'):g}"


def percent(share: float) -> str:
    """Return a share as per cent; what is neither none nor all does not look like it.

    Example:
        >>> [percent(x) for x in (0.0, 1e-9, 0.0004, 0.013, 0.1234, 0.9951, 0.99999, 1.0)]
        ['0 %', '< 0.001 %', '0.04 %', '1.3 %', '12 %', '99.5 %', '> 99.9 %', '100 %']
    """
    value = 100.0 * share
    if value in {0.0, 100.0}:
        return f"{value:.0f} %"
    if value < 0.001:  # noqa: PLR2004
        return "< 0.001 %"
    if value > 99.9:  # noqa: PLR2004
        return "> 99.9 %"
    if value < 1.0:
        return f"{value:.2g} %"
    return f"{value:.0f} %" if 10.0 <= value <= 99.0 else f"{value:.1f} %"  # noqa: PLR2004


def several(number: int, thing: str) -> str:
    """Return a number of things: `1 step`, `2 steps`."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
