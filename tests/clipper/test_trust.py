"""Training loops in which clipping cannot have worked, each with its one warning; and those that get none."""

import warnings

import pytest

from clipper import wrong_loops
from clipper.loops import STEPS, data, setup, sgd
from clipper.rare_loops import RARE
from clipper.right_loops import COMMON
from clipper.training import batches, loss_of, network
from clipper.wrong_loops import WRONG
from gradclip import GradClipper, MisuseWarning
from gradclip.testing import capture_records


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_loop_gets_one_warning(name: str) -> None:
    """Exactly one in many steps, with the words that help, at a line of the user's file."""
    loop, words = WRONG[name]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loop()
    assert [warning.category for warning in caught] == [MisuseWarning], [str(warning.message) for warning in caught]
    with pytest.raises(MisuseWarning, match=words):
        raise caught[0].message  # type: ignore[misc] # to have its words matched
    assert caught[0].filename == wrong_loops.__file__


def test_two_mistakes_get_two_warnings() -> None:
    """Parameters that nobody clips, and the others after the step."""
    net = network()
    optimizer, clipper = sgd(net), GradClipper(net[0])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for batch in data():
            optimizer.zero_grad()
            loss_of(net, batch).backward()
            optimizer.step()
            clipper.clip()
    assert len(caught) == 2
    assert "no clipper clips" in str(caught[0].message) and "after the step" in str(caught[1].message)


RIGHT = COMMON | RARE


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_loop_gets_none(name: str) -> None:
    """And it does clip."""
    with warnings.catch_warnings(record=True) as caught, capture_records() as records:
        warnings.simplefilter("always")
        RIGHT[name]()
    assert [str(warning.message) for warning in caught] == []
    assert len(records) >= STEPS and sum(record.status == "clipped" for record in records) >= STEPS // 2


def test_zeros_now_and_then_get_none() -> None:
    """As where a loss is 0 for a while."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wrong_loops.zeroed_before_the_step(attach=True, rare=100)


def test_a_right_loop_gets_none_in_a_long_run() -> None:
    """Nor where a thousand steps pass."""
    net, optimizer, clipper = setup()
    clipper.attach(optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for batch in batches(10) * 100:
            optimizer.zero_grad()
            loss_of(net, batch).backward()
            optimizer.step()
    assert clipper.last is not None and clipper.last.step == 1000
