"""Warn at the line of the user's that led here, through whatever packages."""

import sys
import warnings

FRAMEWORKS = ("accelerate", "lightning", "lightning_fabric", "pytorch_lightning", "transformers", "trl")
PACKAGES = ("torch", "gradclip", *FRAMEWORKS)
"""Whose lines are not the user's."""


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the innermost line of the stack that is the user's."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in PACKAGES:
        frame = frame.f_back
        level += 1
    warnings.warn(message, category, stacklevel=level + 1)


_said: set[str] = set()


def warn_once(message: str) -> None:
    """Warn where nothing of the same words was said in this process."""
    if message not in _said:
        warn(message)
        _said.add(message)
