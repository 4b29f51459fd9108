"""The options of `gradclip demo`."""

from pathlib import Path
from typing import Annotated

import typer

LARGEST = 1e38
"""A float32 holds three times as much; torch refuses a learning rate that it does not hold."""

SEEDS = 2**63
"""How many seeds torch tells apart, less the negative ones."""


def _positive(value: float) -> float:
    if not 0 < value <= LARGEST:
        requirement = f"at most {LARGEST:g}" if value > LARGEST else "a positive number"
        message = f"must be {requirement}, got {value:g}"
        raise typer.BadParameter(message)
    return value


def _one_or_more(value: int) -> int:
    if value < 1:
        message = f"must be 1 or more, got {value}"
        raise typer.BadParameter(message)
    return value


def _seed(value: int) -> int:
    if not 0 <= value < SEEDS:
        message = f"must be from 0 to {SEEDS - 1}, got {value}"
        raise typer.BadParameter(message)
    return value


def demo(
    text: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="UTF-8 text to train on.", show_default="Python's own documentation"),
    ] = None,
    max_norm: Annotated[
        float, typer.Option(callback=_positive, help="Largest gradient norm of the clipped run.")
    ] = 1.0,
    lr: Annotated[float, typer.Option(callback=_positive, help="Learning rate of both runs.")] = 2.0,
    steps: Annotated[int, typer.Option(callback=_one_or_more, help="Training steps of each run.")] = 400,
    seed: Annotated[int, typer.Option(callback=_seed, help="Seed of the weights and of the samples.")] = 0,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the picture and the numbers go.")] = Path(
        "gradclip-demo"
    ),
) -> None:
    """Train a recurrent network twice from the same seed, without clipping and with it, and compare."""
    from gradclip.cli.demo.session import Settings, run  # noqa: PLC0415 -- rich is slow to import

    code = run(Settings(text=text, max_norm=max_norm, lr=lr, steps=steps, seed=seed, out=out))
    if code:
        raise typer.Exit(code)
