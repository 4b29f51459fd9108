"""The command: one demo from beginning to end, a run for each policy, and what came of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from gradclip.cli import INTERRUPTED, UserError
from gradclip.cli.presets import BY_NAME, DEFAULT, PRESETS
from gradclip.cli.specs import HELP


def _must_be(requirement: str, holds: Callable[[float], bool]) -> Callable[[float], float]:
    """Return what refuses a number that is not as it must be."""

    def checked(value: float) -> float:
        if not holds(value):
            raise typer.BadParameter(f"must be {requirement}, got {value}")
        return value

    return checked


LARGEST = 1e38
"""A float32 holds three times as much; torch refuses a learning rate that it does not hold."""

_positive = _must_be(f"a positive number, at most {LARGEST:g}", lambda value: 0.0 < value <= LARGEST)
_steps = _must_be("1 to 1,000,000,000", lambda value: 1 <= value <= 10**9)  # more than anybody waits for
_seed = _must_be(f"from 0 to {2**63 - 1}", lambda value: 0 <= value < 2**63)  # those that torch tells apart


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
        float, typer.Option(callback=_positive, help="Threshold of the runs with clipping; some policies have none.")
    ] = 1.0,
    lr: Annotated[float, typer.Option(callback=_positive, help="Learning rate of all runs.")] = 2.0,
    steps: Annotated[int, typer.Option(callback=_steps, help="Training steps of each run.")] = 400,
    seed: Annotated[int, typer.Option(callback=_seed, help="Seed of the weights and of the samples.")] = 0,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder for picture, records and report.")] = Path(
        "gradclip-demo"
    ),
) -> int:
    """Train a recurrent network twice from the same seed, without and with clipping, and compare."""
    if policy == HELP:
        width = max(map(len, BY_NAME))
        typer.echo("\n".join(f"{preset.name:<{width}}  {preset.rule}" for preset in BY_NAME.values()))
        return 0
    if every and policy is not None:
        raise UserError("--all trains with every policy. Leave out --policy, or --all.")
    if policy not in {*BY_NAME, None}:
        raise UserError(f"--policy must be one of {', '.join(BY_NAME)}, got {policy!r}. --policy {HELP} explains them.")
    from rich.console import Console  # noqa: PLC0415 -- slow to import, and so is what follows

    from gradclip.cli.demo import display, files  # noqa: PLC0415
    from gradclip.cli.demo.text import load  # noqa: PLC0415
    from gradclip.cli.demo.training import Run, one_thread  # noqa: PLC0415
    from gradclip.cli.say import say  # noqa: PLC0415

    preset = BY_NAME[policy or DEFAULT.name]
    named = {"with clipping" if preset is DEFAULT else preset.name: preset}
    if every:
        named = {each.name: each for each in PRESETS}
    policies = {"without clipping": None, **{name: each.policy(max_norm) for name, each in named.items()}}
    console, corpus = Console(highlight=False), load(text)
    files.check(out, policies)
    size = f"{corpus.characters:,} characters, {len(corpus.symbols):,} symbols"
    say(console, f"Training on {corpus.source}: {size}.")
    for name, rule in policies.items():
        if rule is not None:
            say(console, f"{name} is {rule}.")
    runs, code = [Run(name, rule, corpus, seed) for name, rule in policies.items()], 0
    with one_thread():
        try:
            display.train(console, runs, steps=steps, lr=lr)
        except KeyboardInterrupt:  # what there is then is shown and saved all the same
            runs, code = [each for each in runs if each.clips], INTERRUPTED
            say(console, "Interrupted. This is what there is:" if runs else "Interrupted before the first step.")
        if runs:
            display.results(console, runs)
            display.samples(console, runs)
            files.save(console, runs, out, f"A character RNN without and with clipping: SGD, lr {lr:g}, seed {seed}")
    return code
