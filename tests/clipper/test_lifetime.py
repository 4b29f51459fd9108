"""Copies of clippers, what lives how long, and threads."""

import copy
import gc
import pickle
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from clipper import training
from clipper.training import (
    OPTIMIZERS,
    backward,
    batches,
    everything,
    network,
    norm_of,
    same_bits,
    train,
)
from gradclip import GradClipper, MisuseWarning
from gradclip.policies import FixedNorm, ZClip
from processes import run


def test_copies_of_everything_train_alike() -> None:
    """A copy of network, optimizer and clipper, made by copying or pickling, works on the copied parameters."""
    net = network()
    optimizer = OPTIMIZERS["AdamW"](net.parameters())
    clipper = GradClipper(net, ZClip(1.0, warmup=2), sinks=[lambda record: None]).attach(optimizer)
    train(net, optimizer, 0, 4)
    pickled = pickle.dumps((net, optimizer, clipper))
    copies = [copy.deepcopy((net, optimizer, clipper)), pickle.loads(pickled)]  # noqa: S301 -- our own
    train(net, optimizer, 4, 8)
    for its_net, its_optimizer, its_clipper in copies:
        assert "attached" not in repr(its_clipper) and its_clipper.last is None
        its_clipper.attach(its_optimizer)
        train(its_net, its_optimizer, 4, 8)
        assert same_bits(everything(its_net, its_optimizer), everything(net, optimizer))
        assert its_clipper.state_dict() == clipper.state_dict()


def test_an_attached_clipper_lives_as_long_as_its_optimizer() -> None:
    """Nobody has to keep it; and it keeps neither the optimizer nor its state alive."""
    net = network()
    optimizer = OPTIMIZERS["AdamW"](net.parameters())
    clipper = weakref.ref(GradClipper(net, FixedNorm(0.5)).attach(optimizer))
    gc.collect()
    train(net, optimizer, 0, 1)
    assert norm_of(net) == pytest.approx(0.5, rel=1e-5)
    kept = clipper()
    lost = weakref.ref(optimizer)
    del optimizer
    gc.collect()
    assert lost() is None and kept is not None and "attached" not in repr(kept)
    del kept
    gc.collect()
    assert clipper() is None


def test_a_clipper_that_is_gone_watches_nothing() -> None:
    """Its warnings go with it, and a step costs no more."""
    from gradclip.clipper.watching import WATCHERS

    net = network()
    optimizer = OPTIMIZERS["SGD"](net.parameters())
    gc.collect()
    before = len(WATCHERS._about)
    clipper, other = GradClipper(net), GradClipper(net[0])
    assert WATCHERS.of_step(optimizer) == WATCHERS.of(net[0].weight) == [clipper, other]
    del clipper
    gc.collect()
    assert WATCHERS.of_step(optimizer) == [other]
    del other
    gc.collect()
    assert WATCHERS.of_step(optimizer) == [] and len(WATCHERS._about) == before
    train(net, optimizer, 0, 4)


def test_gradients_are_not_kept_alive() -> None:
    """Watching them holds no memory: once zeroed, they are gone."""
    net = network()
    optimizer = OPTIMIZERS["SGD"](net.parameters())
    clipper = GradClipper(net).attach(optimizer)
    train(net, optimizer, 0, 1)
    assert net[0].weight.grad is not None
    gradient = weakref.ref(net[0].weight.grad)
    optimizer.zero_grad()
    assert gradient() is None and clipper.last is not None


def test_threads_train_side_by_side() -> None:
    """Each with a network of its own, all ending as alone."""
    results: list[Any] = []
    networks = [network() for _ in range(20)]

    def run() -> None:
        for _ in range(5):
            net = networks.pop()
            optimizer = OPTIMIZERS["AdamW"](net.parameters())
            GradClipper(net, ZClip(1.0, warmup=2)).attach(optimizer)
            train(net, optimizer, 0, 10)
            results.append(everything(net, optimizer))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 20 and all(same_bits(result, results[0]) for result in results)


# Copies of an attached optimizer by itself, which are not attached.

COPIES: dict[str, Any] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda thing: pickle.loads(pickle.dumps(thing)),  # noqa: S301 -- our own
}


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_without_its_clipper_says_so_once(name: str) -> None:
    """At its first step; and not after, nor the original."""
    net = network()
    optimizer = OPTIMIZERS["AdamW"](net.parameters())
    clipper = GradClipper(net, FixedNorm(0.5)).attach(optimizer)
    its_net, its_optimizer = COPIES[name]((net, optimizer))
    with pytest.warns(MisuseWarning, match="copy of one that a `GradClipper` is attached to, and the copy is not") as w:
        train(its_net, its_optimizer, 0, 3)
    assert [warning.filename for warning in w] == [training.__file__]
    train(net, optimizer, 0, 3)
    assert clipper.last is not None and clipper.last.step == 3


def test_a_shallow_copy_is_noticed_too() -> None:
    """It updates the same parameters, so that it is seen to step on gradients that nobody has clipped."""
    net = network()
    optimizer = OPTIMIZERS["AdamW"](net.parameters())
    clipper = GradClipper(net, FixedNorm(0.5)).attach(optimizer)
    with pytest.warns(MisuseWarning) as caught:
        train(net, copy.copy(optimizer), 0, 3)
    assert len(caught) == 1 and clipper.last is None


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_that_is_clipped_says_nothing(name: str) -> None:
    """Attached to its own clipper; clipped by hand; of an optimizer whose clipper was detached."""
    net = network()
    optimizer = OPTIMIZERS["AdamW"](net.parameters())
    clipper = GradClipper(net, FixedNorm(0.5)).attach(optimizer)
    its_net, its_optimizer = COPIES[name]((net, optimizer))
    its_clipper = GradClipper(its_net, FixedNorm(0.5)).attach(its_optimizer)
    train(its_net, its_optimizer, 0, 2)
    assert its_clipper.last is not None and its_clipper.last.step == 2
    its_net, its_optimizer = COPIES[name]((net, optimizer))
    its_clipper = GradClipper(its_net, FixedNorm(0.5))
    for batch in batches(2):
        backward(its_net, its_optimizer, batch)
        its_clipper.clip()
        its_optimizer.step()
    clipper.detach()
    train(*COPIES[name]((net, optimizer)), 0, 2)


class Whole(torch.optim.SGD):
    """An optimizer that is copied with all its attributes."""

    def __getstate__(self) -> dict[str, Any]:  # type: ignore[override]
        return {key: value for key, value in self.__dict__.items() if "hook" not in key}


class Listed(torch.optim.SGD):
    """An optimizer whose state is no dict."""

    def __getstate__(self) -> Any:
        return (self.defaults, self.state, self.param_groups)

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(dict(zip(("defaults", "state", "param_groups"), state, strict=True)))


@pytest.mark.parametrize("kind", [Whole, Listed])
def test_optimizers_with_a_state_of_their_own(kind: type[torch.optim.SGD]) -> None:
    """They are copied as they would be; copies of copies are those of copies, whether the original lives or not."""
    net = network()
    optimizer = kind(net.parameters(), lr=0.1)
    clipper = GradClipper(net, FixedNorm(0.5)).attach(optimizer)
    spare = copy.deepcopy(optimizer)
    spare.param_groups[0]["lr"] = 5.0
    assert copy.deepcopy(spare).param_groups[0]["lr"] == 5.0
    pickle.dumps(optimizer)
    clipper.detach()
    assert "__getstate__" not in optimizer.__dict__
    pickle.dumps(optimizer)
    del optimizer
    gc.collect()
    assert copy.deepcopy(spare).param_groups[0]["lr"] == 5.0


def test_a_copy_in_another_process(tmp_path: Path) -> None:
    """Where nobody has made a clipper, or imported the library."""
    net = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    clipper = GradClipper(net, FixedNorm(0.5)).attach(optimizer)
    (tmp_path / "both.pickle").write_bytes(pickle.dumps((net, optimizer)))
    script = (
        "import pickle, sys, torch\n"
        "net, optimizer = pickle.load(open(sys.argv[1], 'rb'))\n"
        "net(torch.ones(2)).backward()\n"
        "optimizer.step()\n"
        "optimizer.step()\n"
    )
    done = run(script, tmp_path / "both.pickle")
    assert done.returncode == 0
    assert done.stderr.count("MisuseWarning: This optimizer is a copy of one that a `GradClipper` is attached to") == 1
    assert clipper.last is None
