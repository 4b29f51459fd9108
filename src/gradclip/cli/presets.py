"""The policies of this package by the names that commands know them by."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from gradclip.policies import (
    AGC,
    AdaGC,
    AutoClip,
    BlockRMS,
    FixedNorm,
    FixedValue,
    MedianClip,
    Normalize,
    Policy,
    SmoothNorm,
    SpikeSkip,
    ZClip,
    chain,
    warmup,
)


@final
@dataclass(frozen=True)
class Preset:
    """A policy with a name.

    Attributes:
        name: What `--policy` calls it.
        rule: What it does, in a line.
        policy: Makes it for a `max_norm`, which some have no use for.
    """

    name: str
    rule: str
    policy: Callable[[float], Policy]


DEFAULT = Preset("fixed", "bound the total norm by max_norm", FixedNorm)

PRESETS = (
    DEFAULT,
    Preset("value", "limit every element to 0.01; no max_norm", lambda _: FixedValue(0.01)),
    Preset("block-rms", "bound the RMS of each parameter by 0.007; no max_norm", lambda _: BlockRMS(0.007)),
    Preset("agc", "bound each unit by 1 % of its weights; no max_norm", lambda _: AGC()),
    Preset("autoclip", "bound the norm by the 10th percentile of its history, and by max_norm", AutoClip),
    Preset("median", "bound the norm by twice its recent median, and by max_norm", MedianClip),
    Preset("zclip", "bound the norm by its mean and deviation, and by max_norm", ZClip),
    Preset("adagc", "bound each parameter by 1.05 times its recent level, and the norm by max_norm", AdaGC),
    Preset("spike-skip", "skip steps 6 deviations off, and bound the norm by max_norm", SpikeSkip),
    Preset("smooth", "shrink the norm smoothly below max_norm", SmoothNorm),
    Preset("normalize", "give all gradients a norm of nearly 1; no max_norm", lambda _: Normalize()),
)
"""What `--all` compares: every policy of this package."""

MORE = (
    Preset(
        "autoclip-90",
        "bound the norm by the 90th percentile of its history, and by max_norm",
        lambda max_norm: AutoClip(max_norm, percentile=90.0),
    ),
    Preset(
        "autoclip-published",
        "as published: the 10th percentile of all norms, no max_norm",
        lambda _: AutoClip(math.inf, window=None),
    ),
    Preset(
        "autoclip-90-published",
        "as published, but for the 90th percentile: no max_norm",
        lambda _: AutoClip(math.inf, percentile=90.0, window=None),
    ),
    Preset("median-published", "as published: no max_norm", lambda _: MedianClip(math.inf)),
    Preset(
        "zclip-published",
        "as published: no max_norm, never unlocks",
        lambda _: ZClip(math.inf, patience=math.inf),
    ),
    Preset(
        "adagc-published",
        "as published: max_norm in the warm-up only, never unlocks",
        lambda max_norm: chain(warmup(99, FixedNorm(max_norm)), AdaGC(math.inf, warmup=99, patience=math.inf)),
    ),
    Preset(
        "spike-skip-published",
        "as published: no max_norm, learns from what it skips, never unlocks",
        lambda _: SpikeSkip(math.inf, learn_skipped=True, patience=math.inf),
    ),
)
"""Another percentile, and adaptive rules without the repairs that this package adds to them."""

BY_NAME = {preset.name: preset for preset in PRESETS + MORE}
