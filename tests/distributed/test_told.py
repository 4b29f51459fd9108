"""Whatever a clipper cannot do on some ranks, the others hear of it, and all go on together."""

from typing import NamedTuple

import pytest

import told_workers
from gradclip.testing import RankPool


class Expected(NamedTuple):
    """The ranks that cannot clip, what they say, and the norm of the next clip, of all ranks together."""

    bad: tuple[int, ...]
    words: str
    after: float


EXPECTED = {
    "a sparse gradient beside units": Expected((1,), "TypeError: A policy per unit must be given dense gradients", 4.0),
    "pieces beside units": Expected(
        (0, 1), "ValueError: `GradClipper(policy=...)` must not look at single units", 10**0.5
    ),
    "a warning that is an error": Expected((1,), "MisuseWarning: `clip()` found the gradients that", 4.0),
    "a scaler of half precision": Expected((1,), "ValueError: Attempting to unscale FP16 gradients.", 4.0),
    "a rule before another": Expected((1,), "ArithmeticError: no decision", 4.0),
    "limits of sums": Expected((0, 1), "TypeError: Clipping by value must be given gradients that are summed", 20**0.5),
}


@pytest.mark.parametrize("pool", [4], indirect=True, ids="{}ranks".format)
@pytest.mark.parametrize("what", told_workers.CASES)
def test_the_others_hear_of_it(pool: RankPool, what: str) -> None:
    """They raise what was said, no gradient is changed on any rank, and the next clip is like any other."""
    bad, words, after = EXPECTED[what]
    heard = pool.run(told_workers.hear, what)
    own = {rank: heard[rank].error for rank in bad}
    assert all(error.startswith(words) for error in own.values()), own
    told = "RemoteError: " + " ".join(f"Rank {rank}: {error}" for rank, error in own.items())
    assert {x.error for rank, x in enumerate(heard) if rank not in bad} == {told}
    assert all(x.is_untouched for x in heard)
    assert [x.after for x in heard] == pytest.approx([after] * 4)
