"""The options of `gradclip demo`."""

from pathlib import Path
from typing import Annotated

import typer

from gradclip.cli import UserError
from gradclip.cli.presets import BY_NAME, DEFAULT, PRESETS
from gradclip.cli.specs import HELP

LARGEST = 1e38
"""A float32 holds three times as much; torch refuses a learning rate that it does not hold."""

MOST_STEPS = 10**9
"""More than anybody waits for."""

SEEDS = 2**63
"""How many seeds torch tells apart, less the negative ones."""


def _positive(value: float) -> float:
    if not 0 < value <= LARGEST:
        requirement = f"at most {LARGEST:g}" if value > LARGEST else "a positive number"
        raise typer.BadParameter(f"must be {requirement}, got {value:g}")
    return value


def _steps(value: int) -> int:
    if not 1 <= value <= MOST_STEPS:
        raise typer.BadParameter(f"must be 1 to {MOST_STEPS:,}, got {value}")
    return value


def _seed(value: int) -> int:
    if not 0 <= value < SEEDS:
        raise typer.BadParameter(f"must be from 0 to {SEEDS - 1}, got {value}")
    return value


def demo(
    *,
    text: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="UTF-8 text to train on.", show_default="Python's own documentation"),
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"How to clip: {', '.join(preset.name for preset in PRESETS)}. '{HELP}' explains these and more.",
            show_default=DEFAULT.name,
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Compare all policies, one run each.")] = False,
    max_norm: Annotated[
        float, typer.Option(callback=_positive, help="Largest gradient norm with clipping; some policies have none.")
    ] = 1.0,
    lr: Annotated[float, typer.Option(callback=_positive, help="Learning rate of all runs.")] = 2.0,
    steps: Annotated[int, typer.Option(callback=_steps, help="Training steps of each run.")] = 400,
    seed: Annotated[int, typer.Option(callback=_seed, help="Seed of the weights and of the samples.")] = 0,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the picture and the numbers go.")] = Path(
        "gradclip-demo"
    ),
) -> None:
    """Train a recurrent network from the same seed without clipping and with it, and compare."""
    if policy == HELP:
        width = max(map(len, BY_NAME))
        typer.echo("\n".join(f"{preset.name:<{width}}  {preset.rule}" for preset in BY_NAME.values()))
        return
    if every and policy is not None:
        raise UserError("--all trains with every policy. Leave out --policy, or --all.")
    if policy not in {*BY_NAME, None}:
        raise UserError(f"--policy must be one of {', '.join(BY_NAME)}, got {policy!r}. --policy {HELP} explains them.")
    from gradclip.cli.demo.session import run  # noqa: PLC0415 -- rich is slow to import

    preset = BY_NAME[policy or DEFAULT.name]
    named = {"with clipping" if preset is DEFAULT else preset.name: preset}
    if every:
        named = {each.name: each for each in PRESETS}
    policies = {"without clipping": None, **{name: each.policy(max_norm) for name, each in named.items()}}
    if code := run(policies, text, out, steps=steps, lr=lr, seed=seed):
        raise typer.Exit(code)
