"""The tables of names: what stands in the last two cells of a row does the same to the same gradients, step by step."""

import functools
import importlib
import importlib.util
import multiprocessing
import sys
import types
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradclip
from conftest import skip_without
from docs import optax_worker
from docs.tables import PAGES, evaluated, needed, rows
from gradclip.policies import Policy
from policies.cases import series

SHAPES = ((4, 3), (7,), (2, 3, 2))
STEPS = 150

TOLERANCES = {"smartclip": 1e-6, "zclip": 1e-6}
"""Where an epsilon is added elsewhere. All others differ by rounding."""

Parameters = nn.ParameterList
Step = Callable[[], object]


def case(name: str) -> list[Any]:
    return [pytest.param(name, *row, id=f"{name}: {row[0]}") for row in rows(name)]


def calls(code: str, parameters: Parameters, **names: Any) -> Step:
    """What is evaluated before every step."""
    total_norm = torch.tensor(4.0, dtype=torch.float64)
    return lambda: evaluated(code, parameters=list(parameters), total_norm=total_norm, **names)


def by_torch(code: str, parameters: Parameters) -> Step:
    return calls(code, parameters)


def by_timm(code: str, parameters: Parameters) -> Step:
    """Two of its files, whose package needs more than they do."""
    found = importlib.util.find_spec("timm")
    if found is None:
        skip_without("oracles", "timm is missing")
    folder = Path(found.submodule_search_locations[0])
    with pytest.MonkeyPatch.context() as patch:
        for name, path in (("timm", folder), ("timm.utils", folder / "utils")):
            module = types.ModuleType(name)
            module.__path__ = [str(path)]
            patch.setitem(sys.modules, name, module)
        names = vars(importlib.import_module("timm.utils.clip_grad"))
        for name in ("timm.utils.clip_grad", "timm.utils.agc"):
            patch.delitem(sys.modules, name)
    return calls(
        code, parameters, dispatch_clip_grad=names["dispatch_clip_grad"], adaptive_clip_grad=names["adaptive_clip_grad"]
    )


@functools.cache
def apart() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


@pytest.fixture(autouse=True, scope="module")
def _end() -> Iterator[None]:
    yield
    if apart.cache_info().currsize:
        apart().shutdown()
        apart.cache_clear()


def by_optax(code: str, parameters: Parameters) -> Step:
    for name in ("jax", "optax"):
        if importlib.util.find_spec(name) is None:
            skip_without("oracles", f"{name} is missing")
    apart().submit(optax_worker.begin, code, [p.detach().numpy() for p in parameters]).result()

    def step() -> None:
        updates = apart().submit(optax_worker.step, [p.grad.numpy() for p in parameters]).result()
        for p, update in zip(parameters, updates, strict=True):
            p.grad = torch.from_numpy(update.copy())

    return step


def by_autoclip(code: str, parameters: Parameters) -> Step:
    return evaluated(code, parameters=parameters, QuantileClip=needed("autoclip.torch").QuantileClip).step


def by_zclip(code: str, parameters: Parameters) -> Step:
    clipper = evaluated(code, zclip=needed("zclip"))
    return lambda: clipper.step(parameters)


def by_smartclip(code: str, parameters: Parameters) -> Step:
    needed("smartclip")
    clipper = evaluated(code, smartclip=importlib.import_module("smartclip.core"))
    backend = importlib.import_module("smartclip.backends.torch")
    return lambda: backend.apply(parameters, clipper)


PEERS: dict[str, Callable[[str, Parameters], Step]] = {
    "torch": by_torch,
    "timm": by_timm,
    "optax": by_optax,
    "deepspeed": by_torch,
    "apex": by_torch,
    "autoclip": by_autoclip,
    "zclip": by_zclip,
    "smartclip": by_smartclip,
}


def by_gradclip(code: str, parameters: Parameters) -> Step:
    """A function that is called, or a policy of a clipper."""
    if "(parameters" in code or "in parameters" in code:
        return calls(code, parameters)
    policy = evaluated(code)
    assert isinstance(policy, Policy)
    return gradclip.GradClipper(parameters, policy).clip


def gradients() -> Iterator[list[Tensor]]:
    """Those of a run with single spikes and a burst, most of norms around 2."""
    for norm in series(STEPS, spread=0.5, spikes=(60, 61, 100, *range(120, 125))):
        drawn = [torch.randn(shape, dtype=torch.float64) for shape in SHAPES]
        yield [x * (norm / x.norm()) for x in drawn]


@pytest.mark.parametrize(("peer", "theirs", "ours"), [row for name in PEERS for row in case(name)])
def test_both_sides_of_a_row_clip_alike(peer: str, theirs: str, ours: str) -> None:
    """150 steps: every element, and what is returned where both return a norm."""
    drawn = [torch.randn(shape, dtype=torch.float64) for shape in SHAPES]
    twins = [Parameters(nn.Parameter(x.clone()) for x in drawn) for _ in range(2)]
    steps = PEERS[peer](theirs, twins[0]), by_gradclip(ours, twins[1])
    rtol, changed = TOLERANCES.get(peer, 1e-12), 0
    for given in gradients():
        for parameters in twins:
            for p, gradient in zip(parameters, given, strict=True):
                p.grad = gradient.clone()
        returned = [step() for step in steps]
        if all(isinstance(x, Tensor) for x in returned):
            assert torch.allclose(*returned, rtol=rtol)
        for one, two, before in zip(*twins, given, strict=True):
            assert torch.allclose(one.grad, two.grad, rtol=rtol, atol=0.0)
            changed += not torch.equal(two.grad, before)
    assert changed or "get_total_norm" in theirs


def test_every_page_is_executed() -> None:
    """Of each library that has one."""
    names = {page.stem for page in PAGES.glob("*.md")} - {"index"}
    assert names == {*PEERS, "lightning"}
    assert all(len(rows(name)) > 1 for name in names)
