"""Ranks whose gradients are on another device, of which the host knows no number: all go on together."""

import math

import pytest

import elsewhere_workers as workers
from gradclip.testing import RankPool
from there import PLACE


@pytest.mark.parametrize("pool", [4], indirect=True, ids="{}ranks".format)
@pytest.mark.parametrize("what", ["all", "one collective", "each"])
def test_one_that_fails(pool: RankPool, what: str) -> None:
    """It says why by itself and waits for nobody, as no other host has heard of it; their total norm is NaN."""
    said = pool.run(workers.fail_on_one, what)
    assert [error for error, *_ in said] == ["", "TypeError", "", ""]
    assert all(math.isnan(norm) for rank, (_, norm, _) in enumerate(said) if rank != 1 and what != "each")
    assert [after for *_, after in said] == [4.0] * 4


@pytest.mark.parametrize("pool", [4], indirect=True, ids="{}ranks".format)
@pytest.mark.parametrize("what", workers.CLIPS)
def test_one_that_fails_amid_collectives(pool: RankPool, what: str) -> None:
    """Nobody is left waiting; where the others read the norm, they hear that it is another rank that cannot clip."""
    said = pool.run(workers.fail_amid, what)
    reads = not what.endswith(workers.UNREAD)
    assert [error for error, *_ in said[:1] + said[2:]] == ["RemoteError" if reads else ""] * 3
    assert said[1][0] in {"OverlappingGradientError", "ArithmeticError", "TypeError"}
    assert all(was_nan or reads or "fails" in what for rank, (_, was_nan, _) in enumerate(said) if rank != 1)
    assert [after for *_, after in said] == [4.0] * 4


@pytest.mark.parametrize("pool", [4], indirect=True, ids="{}ranks".format)
@pytest.mark.parametrize("attached", [False, True], ids=["the host decides", "the device decides"])
def test_one_rank_alone_knows_the_loss(pool: RankPool, attached: bool) -> None:
    """As the last stage of a pipeline does: all ranks go by it, though no host knows whether another was told one."""
    assert pool.run(workers.judge_the_loss, attached=attached) == [["ok"] * 4 + ["skipped_spike", "ok"]] * 4


@pytest.mark.parametrize("pool", [2], indirect=True, ids="{}ranks".format)
@pytest.mark.parametrize(
    ("what", "norms"),
    [
        ("no parameter", [2.0, 2.0]),
        ("no gradient", [2.0, 2.0]),
        ("an error", [math.nan, -1.0]),
        ("all on the CPU", [math.sqrt(8.0)] * 2),
    ],
)
def test_two_backends_of_one_group(pool: RankPool, what: str, norms: list[float]) -> None:
    """A collective is of one of them on all ranks, be there no number on the device on some; they agree once."""
    said = pool.run(workers.kinds_of_vectors, what)
    kind = "cpu" if what == "all on the CPU" else PLACE.type
    assert [(kinds, agreed) for kinds, agreed, _ in said] == [({kind}, 1)] * 2
    for (*_, found), norm in zip(said, norms, strict=True):
        assert found == pytest.approx([norm, norm], nan_ok=True)
