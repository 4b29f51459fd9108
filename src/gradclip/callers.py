"""Who has called: find a frame by what it runs, and warn at the line of the user's that led here."""

import sys
import sysconfig
import warnings
from pathlib import Path
from types import CodeType, FrameType

FRAMEWORKS = ("accelerate", "lightning", "lightning_fabric", "pytorch_lightning", "transformers", "trl")
PACKAGES = ("torch", "gradclip", *FRAMEWORKS)
"""Whose lines are not the user's."""


def running(code: CodeType) -> FrameType | None:
    """Return the innermost frame of the stack that runs a code, or None."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code is not code:
        frame = frame.f_back
    return frame


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the innermost line of the stack that is the user's: in no package that is installed, if there is one."""
    level, other = 1, 0  # the innermost of no package of these, whatever it is of
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        level += 1
        if frame.f_globals.get("__name__", "").partition(".")[0] not in PACKAGES:
            if not _is_installed(frame.f_code.co_filename):
                other = level
                break
            other = other or level
        frame = frame.f_back
    warnings.warn(message, category, stacklevel=other or level)


def _is_installed(file: str) -> bool:
    """Whether a file is of a package that was installed, of a command of one, or of Python itself."""
    path = Path(file)
    is_package = not {"site-packages", "dist-packages"}.isdisjoint(path.parts)
    scripts, library = sysconfig.get_path("scripts"), sysconfig.get_path("stdlib")
    return is_package or file.startswith("<frozen") or str(path.parent) == scripts or path.is_relative_to(library)


_said: set[str] = set()


def warn_once(message: str) -> None:
    """Warn where nothing of the same words was said in this process."""
    if message not in _said:
        warn(message)
        _said.add(message)
