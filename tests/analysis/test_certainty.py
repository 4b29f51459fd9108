"""How sure advice says it is, held against what other recordings of the same training say."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from analysis.norms import NAN, lognormal, series
from gradclip.analysis import advise

TRAININGS: list[Callable[[int], Tensor]] = [
    lambda seed: lognormal(250, 0.3, seed=seed),
    lambda seed: lognormal(400, 0.2, seed=seed),
    lambda seed: lognormal(1000, 0.3, seed=seed),
    lambda seed: lognormal(1000, 0.3, seed=seed, memory=0.9),
    lambda seed: lognormal(2000, 0.15, seed=seed, memory=0.5),
    lambda seed: lognormal(2000, 0.3, seed=seed, memory=0.98),
]
"""Norms of a training, by the seed of a recording: the last of them swing over hundreds of steps."""


def test_a_grade_keeps_what_it_promises() -> None:
    """Of the other recordings of a training, three in four have their threshold within the interval of a graded one."""
    held: dict[str | None, list[bool]] = {"firm": [], "fair": [], "rough": []}
    for training in TRAININGS:
        found = [advise(training(seed)) for seed in range(8)]
        for one in found:
            own = one.suggestions[1]
            held[one.certainty] += [own.low <= x.suggestions[1].max_norm <= own.high for x in found if x is not one]
    assert all(len(each) >= 40 for each in held.values())
    shares = {grade: sum(each) / len(each) for grade, each in held.items()}
    assert min(shares["firm"], shares["fair"]) >= 0.75
    assert shares["rough"] < min(shares["firm"], shares["fair"])  # so that the others mean something


@pytest.mark.parametrize(
    ("steps", "grade", "words"),
    [
        (1000, "firm", "How sure: firm. Another recording would put the balanced threshold at "),
        (250, "fair", "How sure: fair. Another recording would put the balanced threshold at "),
        (120, "rough", "How sure: rough, because 100 steps are few"),
    ],
)
def test_it_depends_on_how_much_was_recorded(steps: int, grade: str, words: str) -> None:
    advice = advise(lognormal(steps, 0.2))
    assert advice.certainty == grade
    assert advice.sure.startswith(words)
    assert f"- {advice.sure}" in str(advice)
    assert advice.to_dict()["certainty"] == grade


@pytest.mark.parametrize("kind", ["drift", "swing", "tail", "zeros", "spikes", "broken"])
def test_what_makes_it_rough_is_said(kind: str) -> None:
    norms = lognormal(1000, 0.1)
    if kind == "drift":
        norms *= torch.linspace(1.0, 0.0, 1000, dtype=torch.float64).exp()
    elif kind == "swing":
        norms = lognormal(1000, 0.2, memory=0.98)
    elif kind == "tail":
        for start in (200, 500, 800):
            norms[start : start + 30] *= 50.0
    elif kind == "zeros":
        norms[::5] = 0.0
    elif kind == "spikes":
        norms[-3:] *= 20.0
    else:
        norms[-5:] = NAN
    words = {
        "drift": "the level of the norms moves",
        "swing": "the norms swing slowly",
        "tail": "the tail is heavy",
        "zeros": "many steps have a norm of 0",
        "spikes": "the recording ends in spikes",
        "broken": "the recording ends in norms that are not finite",
    }
    advice = advise(series(norms))
    assert advice.certainty == "rough" and words[kind] in advice.sure


def test_where_there_is_no_threshold_there_is_nothing_to_be_sure_of() -> None:
    advice = advise(lognormal(25))
    assert (advice.certainty, advice.sure) == (None, "")
