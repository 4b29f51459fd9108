"""Warn at the line of the user's that led here, through whatever packages."""

import sys
import sysconfig
import warnings
from pathlib import Path
from types import FrameType

FRAMEWORKS = ("accelerate", "lightning", "lightning_fabric", "pytorch_lightning", "transformers", "trl")
PACKAGES = ("torch", "gradclip", *FRAMEWORKS)
"""Whose lines are not the user's."""


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the innermost line of the stack that is the user's: in no package that is installed, if there is one."""
    frames = [sys._getframe(1)]
    while (outer := frames[-1].f_back) is not None:
        frames.append(outer)
    others = [level for level, frame in enumerate(frames, 2) if not _is_in(frame, PACKAGES)]
    own = [level for level in others if not _is_installed(frames[level - 2].f_code.co_filename)]
    warnings.warn(message, category, stacklevel=(own + others + [len(frames) + 1])[0])


def _is_in(frame: FrameType, packages: tuple[str, ...]) -> bool:
    return frame.f_globals.get("__name__", "").partition(".")[0] in packages


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
