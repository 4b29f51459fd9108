"""The command `gradclip replay`: what policies would have done to a recorded run."""

from gradclip.cli.replay.command import replay

__all__ = ["replay"]
