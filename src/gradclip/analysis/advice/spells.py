"""Spikes of a healthy run, such as corrupted batches leave, set aside with what trails them.

A corrupted batch throws a run off for some steps: all of these are one spell. A few spells say nothing of the run,
however far off they are; where there are many, or where they never end, they are the run.
"""

import torch
from torch import Tensor

from gradclip.analysis.advice.thresholds import Landmarks

SPIKE_DEVIATIONS, LEAST_SPIKE = 6.0, 3.0
"""How far above the median a spike is: in robust deviations of log n, and in medians at least."""

FEWEST_SPELLS, SHARE_OF_SPELLS = 3, 0.01
"""Spells that a healthy run may have: so many, or this share of its steps where it is more."""

MOST_ASIDE = 0.1
"""The share of the steps that they may take."""

CALM, USUAL = 5, 2.0
"""A spell is over where so many norms in a row are at most so many robust deviations above the median."""


def spikes(norms: Tensor, found: Landmarks) -> Tensor:
    """Return which of norms > 0, with these landmarks, are spikes: bool, of shape (n,)."""
    return norms > max(found.above(SPIKE_DEVIATIONS).item(), LEAST_SPIKE * found.center.exp().item())


def without_spells(norms: Tensor, found: Landmarks) -> Tensor:
    """Return the norms without the spells that begin with a spike; all norms where these are many or long.

    Large norms that the norms begin with are no spell: what they would have to come back to was not seen.

    Args:
        norms: Norms > 0 in the order of their steps, of shape (n,), n >= CALM.
        found: Their landmarks.
    """
    spiky, usual = spikes(norms, found), found.above(USUAL)
    calm = (norms.unfold(0, CALM, 1).amax(dim=1) <= usual).nonzero().flatten()
    begin = int(calm[0]) if len(calm) else len(norms)
    if bool(spiky[:begin].any()):
        return norms
    kept = torch.ones_like(spiky)
    spells, end = 0, 0
    for start in spiky.nonzero().flatten().tolist():
        if start < end:
            continue
        spells += 1
        if spells > max(FEWEST_SPELLS, SHARE_OF_SPELLS * len(norms)):
            return norms
        after = int(torch.searchsorted(calm, start))
        end = int(calm[after]) if after < len(calm) else len(norms)
        kept[start:end] = False
    return norms if not spells or (~kept).double().mean() > MOST_ASIDE else norms[kept]
