"""Trainings in several threads of a process begin and end, and go on, at any moment of each other."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest
import torch
from torch.amp import GradScaler

import gradclip
from clipper.loops import sgd
from clipper.training import batches, loss_of, network
from gradclip import ClipRecord, GradClipper
from gradclip.patching import clippers
from gradclip.policies import FixedNorm
from gradclip.records import sinks


@contextmanager
def meanwhile(places: dict[str, set[str]], act: Callable[[], object]) -> Iterator[None]:
    """Have another thread act at each line of some functions of files that this one runs, until it has to wait."""
    before, threads = sys.gettrace(), list[threading.Thread]()

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        del argument
        code = frame.f_code
        if event == "line" and code.co_name in places.get(code.co_filename.rpartition("/")[2], ()):
            threads.append(threading.Thread(target=act))
            threads[-1].start()
            threads[-1].join(0.05)
        return trace

    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)
        for thread in threads:
            thread.join()


def made_gradients(scaler: GradScaler | None = None) -> tuple[list[torch.nn.Parameter], torch.optim.Optimizer]:
    net = network()
    loss = loss_of(net, batches(1)[0])
    (loss if scaler is None else scaler.scale(loss)).backward()
    return list(net.parameters()), sgd(net)


def test_a_scaler_steps_as_another_training_begins() -> None:
    """Which attaches a clipper, and so wants to hear of scalers too."""
    scaler, others = GradScaler("cpu"), []

    def begin() -> None:
        _, optimizer = made_gradients()
        others.append(GradClipper(optimizer).attach(optimizer))

    parameters, optimizer = made_gradients(scaler)
    clipper = GradClipper(parameters).attach(optimizer, scaler)
    with meanwhile({"_weakrefset.py": {"__iter__"}}, begin):
        scaler.step(optimizer)
    assert clipper.last is not None and clipper.last.clipped
    for other in (clipper, *others):
        other.detach()


def test_records_that_wait_are_given_as_others_begin_to_wait() -> None:
    """Those of another thread among them."""
    waiting = [sinks.Sinks((), FixedNorm(1.0))]
    sinks._WAITING.add(waiting[0])

    def wait() -> None:
        if len(waiting) < 4:
            waiting.append(sinks.Sinks((), FixedNorm(1.0)))
            sinks._WAITING.add(waiting[-1])

    with meanwhile({"_weakrefset.py": {"__iter__", "pop"}}, wait):
        sinks.flush()
    assert len(waiting) > 1
    sinks.flush()
    assert not list(sinks._WAITING)


def test_under_patch_a_training_goes_on_as_others_begin_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is known of all is looked through in one, of calls that are long gone, and where an optimizer is gone."""
    monkeypatch.setattr(clippers, "IDLE", 3)
    alive: list[Any] = []

    def train() -> None:
        parameters, optimizer = made_gradients()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        alive.append((parameters, optimizer))

    within = {
        "clippers.py": {"_family_for_call", "_rest", "<dictcomp>", "<listcomp>", "<genexpr>"},
        "weakref.py": {"values"},
    }
    with gradclip.patch(FixedNorm(0.5)):
        train()
        parameters, _ = made_gradients()
        with meanwhile(within, train):
            for _ in range(3):
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            alive.pop(0)
    assert len(alive) > 3
    for listed in (parameters, *(listed for listed, _ in alive)):
        norm = torch.linalg.vector_norm(torch.cat([p.grad.flatten() for p in listed]))  # type: ignore[union-attr]
        assert norm <= 0.5 * (1 + 1e-6)


def test_under_patch_an_overflow_is_recorded_as_others_step() -> None:
    """Steps in other threads are not taken for the one that a scaler leaves out."""

    class Slow(GradScaler):
        """Another training steps as it unscales."""

        def unscale_(self, optimizer: torch.optim.Optimizer) -> None:
            thread = threading.Thread(target=made_gradients()[1].step)
            thread.start()
            thread.join()
            super().unscale_(optimizer)

    records: list[ClipRecord] = []
    with gradclip.patch(sinks=[records.append]):
        scaler = Slow("cpu", init_scale=2.0**127)
        _, optimizer = made_gradients(scaler)
        scaler.step(optimizer)
    assert sorted(record.status for record in records) == ["ok", "skipped_scaler"]


@pytest.mark.parametrize("policy", [None, FixedNorm(0.5)], ids=["recorded", "clipped"])
def test_under_patch_threads_that_share_parameters_wait_for_each_other(policy: FixedNorm | None) -> None:
    """As those of A3C, in a script that knows of no clipper: each has its call, and its step."""
    parameters, optimizer = made_gradients()
    other = torch.optim.SGD(parameters, lr=0.1)
    norms, threads, records = list[float](), list[threading.Thread](), list[ClipRecord]()

    def train(optimizer: torch.optim.Optimizer, max_norm: float) -> None:
        norms.append(torch.nn.utils.clip_grad_norm_(parameters, max_norm).item())
        optimizer.step()

    def sink(record: ClipRecord) -> None:
        records.append(record)
        if not threads:  # in the clip of the first
            threads.append(threading.Thread(target=train, args=(other, 2.0)))
            threads[0].start()
            threads[0].join(0.2)

    with gradclip.patch(policy, sinks=[sink]):
        train(optimizer, 1.0)
        threads[0].join()
    assert len(norms) == 2
    assert [record.threshold for record in records] == ([1.0, 2.0] if policy is None else [0.5, 0.5])
