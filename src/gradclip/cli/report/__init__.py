"""The command `gradclip report`: a recorded run as one page of charts, tables and advice."""

from gradclip.cli.report.command import report

__all__ = ["report"]
