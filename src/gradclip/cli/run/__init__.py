"""The command `gradclip run`: a training script as it is, recorded, clipped by a rule, or watched."""

from gradclip.cli.run.command import SETTINGS, run

__all__ = ["SETTINGS", "run"]
