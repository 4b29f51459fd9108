"""Collect gradients, and work on them as one."""

from gradclip.gradients.collect import collect, gather
from gradclip.gradients.gradient_set import GradientSet

__all__ = ["GradientSet", "collect", "gather"]
