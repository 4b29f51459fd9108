"""The command `gradclip watch`: a run in progress, in the terminal."""

from gradclip.cli.watch.command import watch

__all__ = ["watch"]
