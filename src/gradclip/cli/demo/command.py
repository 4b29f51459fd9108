"""The options of `gradclip demo`."""

import math
from pathlib import Path
from typing import Annotated

import typer

LARGEST_SEED = 2**63 - 1


def _positive(value: float) -> float:
    if not (math.isfinite(value) and value > 0):
        message = f"must be a positive number, got {value:g}"
        raise typer.BadParameter(message)
    return value


def demo(  # noqa: PLR0913, PLR0917 -- one argument an option
    text: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="UTF-8 text to train on.", show_default="Python's own documentation"),
    ] = None,
    max_norm: Annotated[
        float, typer.Option(callback=_positive, help="Largest gradient norm of the clipped run.")
    ] = 1.0,
    lr: Annotated[float, typer.Option(callback=_positive, help="Learning rate of both runs.")] = 2.0,
    steps: Annotated[int, typer.Option(min=1, help="Training steps of each run.")] = 400,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Seed of the weights and of the samples.")] = 0,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the picture and the numbers go.")] = Path(
        "gradclip-demo"
    ),
) -> None:
    """Train a recurrent network twice from the same seed, without clipping and with it, and compare."""
    from gradclip.cli.demo.session import Settings, run  # noqa: PLC0415 -- rich is slow to import

    code = run(Settings(text=text, max_norm=max_norm, lr=lr, steps=steps, seed=seed, out=out))
    if code:
        raise typer.Exit(code)
