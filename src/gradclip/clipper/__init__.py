"""`GradClipper`: clipping tied to an optimizer."""

from gradclip.clipper.clipper import GradClipper

__all__ = ["GradClipper"]
