"""One demo from beginning to end: the text, a run without clipping, runs with it, and what came of them."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import final

from rich.console import Console

from gradclip.cli import INTERRUPTED, UserError, target
from gradclip.cli.demo import display
from gradclip.cli.demo.outcome import Outcome
from gradclip.cli.demo.records import file_of, missing, write_records, write_report
from gradclip.cli.demo.runs import Run
from gradclip.cli.demo.steps import write_steps
from gradclip.cli.demo.text import Corpus, load
from gradclip.cli.demo.training import one_thread
from gradclip.cli.presets import DEFAULT, Preset
from gradclip.cli.say import say
from gradclip.extras import how_to_install

WRITTEN = 1000
"""Characters that a model writes: more than one line shows, as blanks are taken out."""


@final
@dataclass(frozen=True)
class Settings:
    """What the options say; the values have been checked."""

    text: Path | None
    presets: Sequence[Preset]
    max_norm: float
    lr: float
    steps: int
    seed: int
    out: Path

    @property
    def plain(self) -> bool:
        """Whether no policy was asked for by name."""
        return tuple(self.presets) == (DEFAULT,)

    @property
    def many(self) -> bool:
        """Whether there are several runs with clipping."""
        return len(self.presets) > 1

    def name_of(self, preset: Preset) -> str:
        """Return what the run with a policy is called."""
        return "with clipping" if self.plain else preset.name


def run(settings: Settings) -> int:
    """Train without clipping and with each policy, show and save what came of it.

    Returns:
        The exit code: 0, or 130 where Ctrl-C ended the training; what there is then is shown and saved all the same.

    Raises:
        UserError: If the text or the folder cannot be used.
    """
    console = Console(highlight=False)
    corpus = load(settings.text)
    names = ["without clipping", *(settings.name_of(preset) for preset in settings.presets)]
    _make_folder(settings.out)
    for file in ("steps.csv", "demo.png", "report.html", *map(file_of, names)):
        target.check("--out", settings.out / file, force=True)
    size = f"{len(corpus.characters):,} characters, {len(corpus.symbols):,} symbols"
    say(console, f"Training on {corpus.source}: {size}.")
    with one_thread():
        runs = [Run(names[0], None, corpus, settings.seed)]
        for name, preset in zip(names[1:], settings.presets, strict=True):
            runs.append(Run(name, preset.policy(settings.max_norm), corpus, settings.seed))
        if not settings.plain:
            for clipped in runs[1:]:
                say(console, f"{clipped.name} is {clipped.policy}.")
        finished = _train(console, runs, settings)
        outcomes = [run.judge(characters=0 if settings.many else WRITTEN) for run in runs if run.records]
    if not finished:
        say(console, "Interrupted. This is what there is:" if outcomes else "Interrupted before the first step.")
    if outcomes:
        _show(console, outcomes, corpus, settings)
        _save(console, outcomes, corpus, settings)
    return 0 if finished else INTERRUPTED


def _train(console: Console, runs: list[Run], settings: Settings) -> bool:
    lines = 1 if settings.many else display.PLAIN_LINES
    try:
        with display.progress(console, settings.steps, lines) as watch:
            for run in runs:
                for record in run.train(steps=settings.steps, lr=settings.lr):
                    watch(run.name, record)
    except KeyboardInterrupt:
        return False
    return True


def _make_folder(out: Path) -> None:
    # Before the training: who waits for a minute should not learn then that nothing can be written.
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"--out {out} cannot be made a folder ({error.strerror}). Name another."
        raise UserError(message) from None
    if not os.access(out, os.W_OK):
        message = f"--out {out} cannot be written to. Name another folder."
        raise UserError(message)


def _show(console: Console, outcomes: list[Outcome], corpus: Corpus, settings: Settings) -> None:
    if settings.many:
        display.overview(console, outcomes, corpus.guessing_bits)
    else:
        display.results(console, outcomes, corpus.guessing_bits)
    display.endings(console, outcomes)
    if not settings.many:
        display.samples(console, outcomes)


def _save(console: Console, outcomes: list[Outcome], corpus: Corpus, settings: Settings) -> None:
    files = ["steps.csv"]
    write_steps(outcomes, settings.out / files[0])
    records = write_records(outcomes, settings.out)
    if find_spec("matplotlib") is None:
        say(console, f"No picture without matplotlib: {how_to_install('report')}")
    else:
        _draw(outcomes, corpus, settings)
        files.append("demo.png")
    if (package := missing()) is not None:
        say(console, f"No report without {package}: {how_to_install('report')}")
    else:
        write_report(records, settings.out / "report.html")
        files.append("report.html")
    display.closing(console, settings.out, files, list(records.values()))


def _draw(outcomes: list[Outcome], corpus: Corpus, settings: Settings) -> None:
    from gradclip.cli.demo import panels, picture  # noqa: PLC0415 -- matplotlib may be missing

    compared = "without and with clipping"
    if not settings.plain:
        compared = f"without clipping and with {'every policy' if settings.many else settings.presets[0].name}"
    title = f"A character RNN {compared}: SGD, lr {settings.lr:g}, seed {settings.seed}"
    path = settings.out / "demo.png"
    if settings.many:
        panels.draw(outcomes, guessing_bits=corpus.guessing_bits, title=title, path=path)
        return
    bound = getattr(settings.presets[0].policy(settings.max_norm), "max_norm", math.inf)
    picture.draw(outcomes, guessing_bits=corpus.guessing_bits, max_norm=bound, title=title, path=path)
