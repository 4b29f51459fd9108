"""One demo from beginning to end: the text, two runs, and what came of them."""

import math
import os
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import final

from rich.console import Console

from gradclip.cli import INTERRUPTED, UserError
from gradclip.cli.demo import display
from gradclip.cli.demo.outcome import Outcome, sample, validate
from gradclip.cli.demo.steps import write_steps
from gradclip.cli.demo.text import Corpus, load
from gradclip.cli.demo.training import CharacterModel, StepRecord, build, one_thread, train

PROMPT, WRITTEN = 64, 1000
"""Characters that a model reads, and then writes: more than one line shows, as blanks are taken out."""


@final
@dataclass(frozen=True)
class Settings:
    """What the options say; the values have been checked."""

    text: Path | None
    max_norm: float
    lr: float
    steps: int
    seed: int
    out: Path


@final
@dataclass(frozen=True)
class Run:
    """A model in training, and its steps so far."""

    name: str
    max_norm: float
    model: CharacterModel
    records: list[StepRecord] = field(default_factory=list)


def run(settings: Settings) -> int:
    """Train without clipping and with it, show and save what came of it.

    Returns:
        The exit code: 0, or 130 where Ctrl-C ended the training; what there is then is shown and saved all the same.

    Raises:
        UserError: If the text or the folder cannot be used.
    """
    console = Console(highlight=False)
    corpus = load(settings.text)
    _make_folder(settings.out)
    size = f"{len(corpus.characters):,} characters, {len(corpus.symbols):,} symbols"
    display.say(console, f"Training on {corpus.source}: {size}.")
    with one_thread():
        runs = [
            Run("without clipping", math.inf, build(len(corpus.symbols), settings.seed)),
            Run("with clipping", settings.max_norm, build(len(corpus.symbols), settings.seed)),
        ]
        finished = _train(console, runs, corpus, settings)
        outcomes = [_judge(run, corpus, settings.seed) for run in runs if run.records]
    if not finished:
        display.say(
            console, "Interrupted. This is what there is:" if outcomes else "Interrupted before the first step."
        )
    if outcomes:
        display.results(console, outcomes, corpus.guessing_bits)
        display.samples(console, outcomes)
        _save(console, outcomes, corpus, settings)
    return 0 if finished else INTERRUPTED


def _train(console: Console, runs: list[Run], corpus: Corpus, settings: Settings) -> bool:
    try:
        with display.progress(console, settings.steps) as watch:
            for run in runs:
                for record in train(
                    run.model, corpus.training, steps=settings.steps, lr=settings.lr, max_norm=run.max_norm
                ):
                    run.records.append(record)
                    watch(run.name, record)
    except KeyboardInterrupt:
        return False
    return True


def _judge(run: Run, corpus: Corpus, seed: int) -> Outcome:
    written = sample(run.model, corpus.symbols, corpus.validation[:PROMPT], characters=WRITTEN, seed=seed)
    return Outcome(run.name, run.records, validate(run.model, corpus.validation), written)


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


def _save(console: Console, outcomes: list[Outcome], corpus: Corpus, settings: Settings) -> None:
    try:
        write_steps(outcomes, settings.out / "steps.csv")
        if find_spec("matplotlib") is None:
            display.say(console, 'No picture without matplotlib: pip install "gradclip[report]"')
            files = "steps.csv"
        else:
            from gradclip.cli.demo.picture import draw  # noqa: PLC0415 -- matplotlib may be missing

            draw(
                outcomes,
                guessing_bits=corpus.guessing_bits,
                max_norm=settings.max_norm,
                title=f"A character RNN without and with clipping: SGD, lr {settings.lr:g}, seed {settings.seed}",
                path=settings.out / "demo.png",
            )
            files = "demo.png and steps.csv"
    except OSError as error:
        message = f"--out {settings.out} cannot be written to ({error.strerror}). Name another folder."
        raise UserError(message) from None
    display.closing(console, settings.out, files)
