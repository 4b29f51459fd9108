"""The command `gradclip bench`: answers checked first, providers interleaved, medians."""

from gradclip.cli.bench.command import bench

__all__ = ["bench"]
