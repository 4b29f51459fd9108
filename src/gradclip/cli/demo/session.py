"""One demo from beginning to end: the text, a run without clipping, runs with it, and what came of them."""

import math
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple, final

from rich.console import Console

from gradclip.cli import INTERRUPTED, UserError, target
from gradclip.cli.demo import display
from gradclip.cli.demo.files import file_of, write_records, write_report, write_steps
from gradclip.cli.demo.runs import Outcome, Run
from gradclip.cli.demo.text import Corpus, load
from gradclip.cli.demo.training import one_thread
from gradclip.cli.presets import DEFAULT, Preset
from gradclip.cli.say import say
from gradclip.extras import how_to_install

WRITTEN = 1000
"""Characters that a model writes: more than one line shows, as blanks are taken out."""


@final
class Settings(NamedTuple):
    """What the options say; the values have been checked."""

    text: Path | None
    presets: Sequence[Preset]
    max_norm: float
    lr: float
    steps: int
    seed: int
    out: Path

    @property
    def is_default(self) -> bool:
        """Whether no policy was asked for by name."""
        return tuple(self.presets) == (DEFAULT,)

    @property
    def has_many(self) -> bool:
        """Whether there are several runs with clipping."""
        return len(self.presets) > 1


def run(settings: Settings) -> int:
    """Train without clipping and with each policy, show and save what came of it.

    Returns:
        The exit code: 0, or 130 where Ctrl-C ended the training; what there is then is shown and saved all the same.

    Raises:
        UserError: If the text or the folder cannot be used.
    """
    console, corpus = Console(highlight=False), load(settings.text)
    policies = {"with clipping" if settings.is_default else preset.name: preset for preset in settings.presets}
    _check_folder(settings.out, ["without clipping", *policies])
    size = f"{len(corpus.characters):,} characters, {len(corpus.symbols):,} symbols"
    say(console, f"Training on {corpus.source}: {size}.")
    with one_thread():
        runs = [Run("without clipping", None, corpus, settings.seed)]
        runs += [
            Run(name, preset.policy(settings.max_norm), corpus, settings.seed) for name, preset in policies.items()
        ]
        for clipped in [] if settings.is_default else runs[1:]:
            say(console, f"{clipped.name} is {clipped.policy}.")
        is_finished = _train(console, runs, settings)
        outcomes = [run.judge(characters=0 if settings.has_many else WRITTEN) for run in runs if run.records]
    if not is_finished:
        say(console, "Interrupted. This is what there is:" if outcomes else "Interrupted before the first step.")
    if outcomes:
        display.results(console, outcomes, corpus.guessing_bits, many=settings.has_many)
        display.endings(console, outcomes)
        if not settings.has_many:
            display.samples(console, outcomes)
        _save(console, outcomes, corpus, settings)
    return 0 if is_finished else INTERRUPTED


def _check_folder(out: Path, runs: Sequence[str]) -> None:
    # Before the training: who waits for a minute should not learn then that nothing can be written.
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out} cannot be made a folder ({error.strerror}). Name another.") from None
    if not os.access(out, os.W_OK):
        raise UserError(f"--out {out} cannot be written to. Name another folder.")
    for file in ("steps.csv", "demo.png", "report.html", *map(file_of, runs)):
        target.check("--out", out / file, force=True)


def _train(console: Console, runs: list[Run], settings: Settings) -> bool:
    lines = 1 if settings.has_many else display.PLAIN_LINES
    try:
        with display.progress(console, settings.steps, lines) as watch:
            for run in runs:
                for record in run.train(steps=settings.steps, lr=settings.lr):
                    watch(run.name, record)
    except KeyboardInterrupt:
        return False
    return True


def _save(console: Console, outcomes: list[Outcome], corpus: Corpus, settings: Settings) -> None:
    out, files = settings.out, ["steps.csv"]
    write_steps(outcomes, out / files[0])
    records = write_records(outcomes, out)
    if find_spec("matplotlib") is None:
        say(console, f"No picture without matplotlib: {how_to_install('report')}")
    else:
        _draw(outcomes, corpus, settings)
        files.append("demo.png")
    if package := next((package for package in ("polars", "plotly") if find_spec(package) is None), None):
        say(console, f"No report without {package}: {how_to_install('report')}")
    else:
        write_report(records, out / "report.html")
        files.append("report.html")
    display.closing(console, out, files, list(records.values()))


def _draw(outcomes: list[Outcome], corpus: Corpus, settings: Settings) -> None:
    from gradclip.cli.demo.picture import draw, draw_many  # noqa: PLC0415 -- matplotlib may be missing

    named = "every policy" if settings.has_many else settings.presets[0].name
    compared = "without and with clipping" if settings.is_default else f"without clipping and with {named}"
    title = f"A character RNN {compared}: SGD, lr {settings.lr:g}, seed {settings.seed}"
    guessing, path = corpus.guessing_bits, settings.out / "demo.png"
    if settings.has_many:
        draw_many(outcomes, guessing_bits=guessing, title=title, path=path)
        return
    bound = getattr(settings.presets[0].policy(settings.max_norm), "max_norm", math.inf)
    draw(outcomes, guessing_bits=guessing, max_norm=bound, title=title, path=path)
