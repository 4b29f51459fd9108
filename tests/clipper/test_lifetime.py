"""Copies of clippers, what lives how long, and threads."""

import copy
import gc
import pickle
import threading
import weakref
from typing import Any

import pytest

from clipper.training import (
    OPTIMIZERS,
    everything,
    network,
    norm_of,
    same_bits,
    train,
)
from gradclip import GradClipper
from gradclip.policies import FixedNorm, ZClip


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
    from gradclip.clipper import hooks

    net = network()
    optimizer = OPTIMIZERS["SGD"](net.parameters())
    gc.collect()
    before = len(hooks.watchers())
    clipper = GradClipper(net)
    assert len(hooks.watchers()) == before + 1
    del clipper
    gc.collect()
    assert len(hooks.watchers()) == before
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
