"""The command `gradclip bench`: answers checked first, providers interleaved, medians.

Nothing is imported here: benchmarks take the shapes and the loop where the command cannot be, as it needs typer.
"""
