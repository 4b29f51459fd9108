"""Collect gradients, and work on them as one."""

from gradclip.gradients.collect import collect, gather
from gradclip.gradients.gradient_set import GradientSet, Parts

__all__ = ["GradientSet", "Parts", "collect", "gather"]
