"""Gradient clipping for PyTorch: exact, close to free, and clear about what it did."""

import importlib.metadata

from gradclip.exceptions import (
    BackendUnavailableError,
    GradClipError,
    NonFiniteGradientError,
    OverlappingGradientError,
)
from gradclip.functional import (
    clip_coefficient,
    clip_grad_norm_,
    clip_grad_value_,
    clip_grads_with_norm_,
    get_norms,
    get_total_norm,
)

__all__ = [
    "BackendUnavailableError",
    "GradClipError",
    "NonFiniteGradientError",
    "OverlappingGradientError",
    "clip_coefficient",
    "clip_grad_norm_",
    "clip_grad_value_",
    "clip_grads_with_norm_",
    "get_norms",
    "get_total_norm",
]

__version__ = importlib.metadata.version("gradclip")
