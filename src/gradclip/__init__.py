"""Gradient clipping for PyTorch: exact, close to free, and clear about what it did."""

import importlib.metadata

from gradclip import distributed, policies
from gradclip.clipper import GradClipper
from gradclip.exceptions import (
    BackendUnavailableError,
    ConsecutiveSkipsError,
    GradClipError,
    MisuseWarning,
    NonFiniteGradientError,
    OverlappingGradientError,
    RemoteError,
)
from gradclip.functional import (
    clip_coefficient,
    clip_grad_norm,
    clip_grad_norm_,
    clip_grad_value_,
    clip_grads_with_norm_,
    get_norms,
    get_total_norm,
)
from gradclip.patching import patch, unpatch
from gradclip.records import ClipRecord
from gradclip.result import ClipResult, Status

__all__ = [
    "BackendUnavailableError",
    "ClipRecord",
    "ClipResult",
    "ConsecutiveSkipsError",
    "GradClipError",
    "GradClipper",
    "MisuseWarning",
    "NonFiniteGradientError",
    "OverlappingGradientError",
    "RemoteError",
    "Status",
    "clip_coefficient",
    "clip_grad_norm",
    "clip_grad_norm_",
    "clip_grad_value_",
    "clip_grads_with_norm_",
    "distributed",
    "get_norms",
    "get_total_norm",
    "patch",
    "policies",
    "unpatch",
]

__version__ = importlib.metadata.version("gradclip")
