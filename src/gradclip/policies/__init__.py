"""The rules: how much to clip, decided from the norms.

Each is one file and, unless it composes others, one paper. `GradClipper` applies them; `gradclip.analysis.replay` runs
them over recorded norms.
"""

from gradclip.policies.adagc import AdaGC
from gradclip.policies.agc import AGC
from gradclip.policies.autoclip import AutoClip
from gradclip.policies.block_rms import BlockRMS
from gradclip.policies.combine import chain, schedule, warmup
from gradclip.policies.fixed import FixedNorm
from gradclip.policies.layout import Layout
from gradclip.policies.measured import Norms
from gradclip.policies.median import MedianClip
from gradclip.policies.normalize import Normalize
from gradclip.policies.partition import by_group, by_name
from gradclip.policies.policy import Decision, Policy
from gradclip.policies.smooth import SmoothNorm
from gradclip.policies.spike_skip import SpikeSkip
from gradclip.policies.value import FixedValue
from gradclip.policies.zclip import ZClip

__all__ = [
    "AGC",
    "AdaGC",
    "AutoClip",
    "BlockRMS",
    "Decision",
    "FixedNorm",
    "FixedValue",
    "Layout",
    "MedianClip",
    "Normalize",
    "Norms",
    "Policy",
    "SmoothNorm",
    "SpikeSkip",
    "ZClip",
    "by_group",
    "by_name",
    "chain",
    "schedule",
    "warmup",
]
