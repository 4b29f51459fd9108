"""One demo from beginning to end: a run for each policy, and what came of them."""

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from gradclip.cli import INTERRUPTED
from gradclip.cli.demo import display, files
from gradclip.cli.demo.runs import Run
from gradclip.cli.demo.text import load
from gradclip.cli.demo.training import one_thread
from gradclip.cli.say import say
from gradclip.policies import Policy


def run(
    policies: Mapping[str, Policy | None], text: Path | None, out: Path, *, steps: int, lr: float, seed: int
) -> int:
    """Train from the same seed with each policy, by the name of its run; show and save what came of it.

    Returns:
        The exit code: 0, or 130 where Ctrl-C ended the training; what there is then is shown and saved all the same.

    Raises:
        UserError: If the text or the folder cannot be used.
    """
    console, corpus = Console(highlight=False), load(text)
    files.check(out, policies)
    size = f"{corpus.characters:,} characters, {len(corpus.symbols):,} symbols"
    say(console, f"Training on {corpus.source}: {size}.")
    for name, policy in policies.items():
        if policy is not None:
            say(console, f"{name} is {policy}.")
    runs, code = [Run(name, policy, corpus, seed) for name, policy in policies.items()], 0
    with one_thread():
        try:
            with display.progress(console, steps) as watch:
                for each in runs:
                    for step in each.train(steps=steps, lr=lr):
                        watch(each.name, step)
        except KeyboardInterrupt:
            runs, code = [each for each in runs if each.steps], INTERRUPTED
            say(console, "Interrupted. This is what there is:" if runs else "Interrupted before the first step.")
        if runs:
            display.results(console, runs)
            display.samples(console, runs)
            files.save(console, runs, out, f"A character RNN without and with clipping: SGD, lr {lr:g}, seed {seed}")
    return code
