"""The oracle of advice: plain Python over lists of floats, written from the definitions and never from `src`."""

import math
import statistics
from collections.abc import Sequence


def usable(norms: Sequence[float], warmup: int | None = None) -> tuple[list[float], int, int, int]:
    """The norms that are judged, and how many are left out: as warm-up, not finite, 0."""
    first = max(20, math.ceil(0.05 * len(norms))) if warmup is None else warmup
    rest = norms[first:]
    kept = [n for n in rest if math.isfinite(n) and n > 0]
    return kept, min(first, len(norms)), sum(not math.isfinite(n) for n in rest), sum(n == 0 for n in rest)


def quantile(norms: Sequence[float], q: float) -> float:
    """Linear interpolation between the two order statistics around rank q (n - 1)."""
    ordered = sorted(norms)
    place = q * (len(ordered) - 1)
    low = math.floor(place)
    return ordered[low] + (place - low) * (ordered[min(low + 1, len(ordered) - 1)] - ordered[low])


def thresholds(norms: Sequence[float]) -> list[float]:
    """Tight, balanced, conservative: none below the one before it, and the last never far above what was seen."""
    logs = [math.log(n) for n in norms]
    median = statistics.median(logs)
    sd = 1.4826 * statistics.median([abs(x - median) for x in logs])
    most = 2 * math.exp(median)
    tight = min(most, quantile(norms, 0.9))
    balanced = max(tight, min(quantile(norms, 0.99), math.exp(median + 3 * sd), most))
    return [tight, balanced, max(balanced, min(math.exp(median + 4 * sd), 2 * max(norms), 3 * balanced))]


def share_clipped(norms: Sequence[float], bound: float) -> float:
    return sum(n > bound for n in norms) / len(norms)


def share_removed(norms: Sequence[float], bound: float) -> float:
    return math.fsum(n - min(n, bound) for n in norms) / math.fsum(norms)


def tail_index(norms: Sequence[float], aside: int = 0) -> float:
    """Hill's estimate over the largest tenth, whose largest `aside` are only known to be as large as the next."""
    ordered = sorted(norms, reverse=True)
    k = math.ceil(0.1 * len(ordered))
    counted = [min(n, ordered[aside]) for n in ordered[:k]]
    return (k - aside) / math.fsum(math.log(n / ordered[k]) for n in counted)


def drift(norms: Sequence[float]) -> float:
    """From the first of 20 pieces to the last, by the median of all slopes between two of them."""
    size, longer = divmod(len(norms), 20)
    medians, start = [], 0
    for piece in range(20):
        end = start + size + (piece < longer)
        medians.append(statistics.median([math.log(n) for n in norms[start:end]]))
        start = end
    slopes = [(medians[j] - medians[i]) / (j - i) for i in range(20) for j in range(i + 1, 20)]
    return math.exp(19 * statistics.median(slopes))


def growth(norms: Sequence[float]) -> float:
    quarter = len(norms) // 4
    return statistics.median(norms[-quarter:]) / statistics.median(norms[:quarter])


def spikes(norms: Sequence[float]) -> int:
    """Above six robust deviations and three medians."""
    logs = [math.log(n) for n in norms]
    median = statistics.median(logs)
    sd = 1.4826 * statistics.median([abs(x - median) for x in logs])
    return sum(n > max(math.exp(median + 6 * sd), 3 * math.exp(median)) for n in norms)


def put_together(norms: Sequence[float], starts: Sequence[int], length: int) -> list[float]:
    """One series of a moving-block bootstrap."""
    return [norm for start in starts for norm in norms[start : start + length]]


def dominating(each: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean share of each parameter in the squared norm."""
    shares: dict[str, list[float]] = {}
    for norms in each:
        total = math.fsum(n * n for n in norms.values())
        for name, n in norms.items():
            shares.setdefault(name, []).append(n * n / total)
    return {name: math.fsum(found) / len(each) for name, found in shares.items()}
