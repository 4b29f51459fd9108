"""The host waits for no device: not in a function, nor in a policy, nor for a record."""

import math
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter
from torch.overrides import TorchFunctionMode

import gradclip
import reference
from calls import BOUND, CALLS
from gradclip.numbers import as_float64
from gradclip.sending import vector_of
from policies.cases import CASES, SHAPES, clipper_of, model
from there import PLACE, There, no_waits
from waits import READS


def owners(missing: bool = False, dtype: torch.dtype = torch.float32) -> list[Parameter]:
    found = [Parameter(There(torch.zeros(shape, dtype=dtype))) for shape in ((3,), (20, 30), (), (5, 7, 3))]
    for i, parameter in enumerate(found):
        if not missing or i != 1:
            parameter.grad = There(torch.randn(parameter.shape).to(dtype))
    return found


class Copy:
    """A copy to the host that is under way until it is waited for."""

    def __init__(self, vector: Tensor) -> None:
        self.host = vector.held.clone()

    def is_done(self) -> bool:
        return False

    def wait(self) -> None:
        """Come to an end."""


MORE: dict[str, Callable[[list[Parameter]], object]] = {
    "order 9": lambda ps: gradclip.clip_grad_norm_(ps, 1.0, 9.0),
    "order -1": lambda ps: gradclip.clip_grad_norm_(ps, 1.0, -1.0),
    "norms, order -1": lambda ps: gradclip.get_norms(ps, -1.0),
    "coefficient": lambda ps: gradclip.clip_coefficient(BOUND[0], 0.5),
}


def test_the_stand_in_refuses_to_be_read() -> None:
    """A number, a copy to the host, and one from it; not what is done there."""
    x, last = There(torch.ones(2)), torch.tensor([1]).to(PLACE)
    with no_waits():
        for read in (
            lambda: x.sum().item(),
            lambda: bool(x.sum() > 0),
            lambda: x.to("cpu"),
            lambda: torch.tensor([1.0], device=PLACE),
            lambda: torch.ones(2).to(PLACE),
            lambda: x.__setitem__(last, 0.0),
            lambda: x.__setitem__(0, 0.0),
        ):
            with pytest.raises(AssertionError, match="waits"):
                read()
        x[:1] = 0.0
        torch.full((2,), 3.0, device=PLACE).mul_(x)


@pytest.mark.parametrize("missing", [False, True], ids=["", "one is missing"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", [*CALLS, *MORE])
def test_functions(name: str, dtype: torch.dtype, missing: bool) -> None:
    BOUND[:] = [There(torch.ones(()))]
    parameters = owners(missing, dtype)
    with no_waits():
        (CALLS | MORE)[name](parameters)


@pytest.mark.parametrize("name", ["clip_grad_norm_", "clip_grads_with_norm_"])
@pytest.mark.parametrize("missing", [False, True], ids=["", "one is missing"])
def test_patched_functions(name: str, missing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which are recorded: neither their bound is read, nor the norm that is held against it."""
    monkeypatch.setattr("gradclip.records.draft.Transfer", Copy)
    records: list[gradclip.ClipRecord] = []
    parameters = owners(missing)
    gradients: list[Any] = [p.grad for p in parameters if p.grad is not None]
    before = [x.held.clone() for x in gradients]
    given = [There(torch.full((), x)) for x in (0.5, 2.0)][: 1 + (name == "clip_grads_with_norm_")]
    with gradclip.patch(sinks=[records.append]):
        with no_waits():
            getattr(torch.nn.utils, name)(parameters, *given)
        gradclip.records.flush()
    norm = reference.norm(before, 2.0)
    coef = reference.coefficient(norm if len(given) == 1 else 2.0, 0.5)
    for x, own in zip(gradients, before, strict=True):
        torch.testing.assert_close(x.held, own * coef)
    assert [(x.total_norm, x.threshold) for x in records] == [(pytest.approx(norm, rel=1e-6), 0.5)]


def test_equal_numbers_of_the_host_are_made_once() -> None:
    """Among those that go to other ranks with one of a device, each of which would be a launch."""
    with mock.patch("gradclip.sending.as_float64", wraps=as_float64) as makes:
        vector: Any = vector_of([There(torch.tensor(2.0)), 1.0, 0.0, 0.0, math.inf, 1.0, 0.0], lambda device: device)
    assert vector.held.tolist() == [2.0, 1.0, 0.0, 0.0, math.inf, 1.0, 0.0]
    assert makes.call_count == 4


@pytest.mark.parametrize("p", [1.0, 2.0, 9.0, -9.0, math.inf, 0.0])
def test_two_devices(p: float) -> None:
    """Norms of powers that leave float64 are taken in units of the extremum of all, wherever that is."""
    parts = [torch.randn(3), torch.randn(20, 30), torch.randn(5, 7)]
    places = [PLACE, torch.device(PLACE.type, 1), PLACE]
    for nonfinite in ("propagate", "keep"):
        parameters: list[Any] = [Parameter(There(torch.zeros_like(x), at)) for x, at in zip(parts, places, strict=True)]
        for parameter, x, at in zip(parameters, parts, places, strict=True):
            parameter.grad = There(x.clone(), at)
        with no_waits():
            found: Any = gradclip.clip_grad_norm_(parameters, 0.5, p, nonfinite=nonfinite)
        norm = reference.norm(parts, p)
        assert found.held.item() == pytest.approx(norm, rel=1e-6)
        for parameter, x in zip(parameters, parts, strict=True):
            torch.testing.assert_close(parameter.grad.held, x * reference.coefficient(norm, 0.5))


class Reads(TorchFunctionMode):
    """Count the numbers of a device that are read back."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in READS and args[0].device == PLACE
        return func(*args, **(kwargs or {}))


def test_gradients_of_the_cpu_beside_others() -> None:
    """They are multiplied by a number of the device, which is read once."""
    parameters: list[Any] = [Parameter(There(torch.zeros(2))), Parameter(torch.zeros(2))]
    parameters[0].grad, parameters[1].grad = There(torch.tensor([1.0, 2.0])), torch.tensor([2.0, 4.0])
    with Reads() as reads:
        gradclip.clip_grad_norm_(parameters, 0.5)
    assert reads.count == 1
    assert parameters[1].grad.tolist() == pytest.approx([0.2, 0.4], rel=1e-6)
    assert parameters[0].grad.held.tolist() == pytest.approx([0.1, 0.2], rel=1e-6)


@pytest.mark.parametrize("missing", [False, True], ids=["", "one is missing"])
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.policy.skips])
def test_policies(name: str, missing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where they let what is not finite pass: they decide as on the CPU, and a record comes later."""
    monkeypatch.setattr("gradclip.records.draft.Transfer", Copy)
    records: list[gradclip.ClipRecord] = []
    there, here = outcomes(name, missing, records, There), outcomes(name, missing, [], lambda x: x)
    gradclip.records.flush()
    assert [record.step for record in records] == list(range(1, 13))
    for ours, expected in zip(there, here, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=0.0)


def outcomes(name: str, missing: bool, records: list[Any], put: Callable[[Tensor], Tensor]) -> list[Tensor]:
    torch.manual_seed(0)
    parameters: dict[str, Any] = {key: Parameter(put(p.detach())) for key, p in model().items()}
    clipper = clipper_of(CASES[name].policy, parameters, nonfinite="propagate", sinks=[records.append])
    found: list[Tensor] = []
    for step in range(12):
        for i, (key, shape) in enumerate(SHAPES.items()):
            x = torch.randn(shape, dtype=torch.float64) * (30.0 if step == 9 else 1.0)
            parameters[key].grad = None if missing and i == step % 3 else put(x)
        with no_waits():
            clipper.clip()
        found += [getattr(p.grad, "held", p.grad).clone() for p in parameters.values() if p.grad is not None]
    return found
