"""What gradclip uses of torch without being promised it: as it is said to be, and what answers without."""

import sys
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import torch_private_workers
from gradclip import torch_private as private
from gradclip.distributed import torch_private as spread
from gradclip.testing import RankPool
from processes import forked, printed


class Watching(TorchDispatchMode):
    def __torch_dispatch__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return call(*args, **(kwargs or {}))


def test_dispatch_modes_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside one there is one more; without the name, there is none."""
    before = private.count_dispatch_modes()
    with Watching():
        assert private.count_dispatch_modes() == before + 1
    monkeypatch.delattr(torch._C, "_len_torch_dispatch_stack")
    assert private._dispatch_modes()() == 0


def test_tracers_are_told_from_other_modes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Theirs alone are noticed; without the names, any mode is."""
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    seen = [private.has_tracing_mode()]
    with Watching():
        seen.append(private.has_tracing_mode())
    with FakeTensorMode():
        seen.append(private.has_tracing_mode())
    make_fx(lambda x: seen.append(private.has_tracing_mode()) or x)(torch.ones(2))
    assert seen == [False, False, True, True]
    monkeypatch.delattr(torch._C, "_get_dispatch_mode")
    without = private._tracing_modes()
    assert not without()
    with Watching():
        assert without()


def test_the_current_gpu_and_its_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the names, torch's published functions say them; `tests/gpu` has the names."""
    monkeypatch.delattr(torch._C, "_cuda_getDevice", raising=False)
    monkeypatch.delattr(torch._C, "_cuda_getCurrentRawStream", raising=False)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=100 + device))
    assert private._current_cuda_device()() == 3
    assert private._current_cuda_stream()(2) == 102


def test_tracing_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside `torch.jit.trace`; without the name, never."""
    seen: list[bool] = []

    def traced(x: Tensor) -> Tensor:
        seen.extend([private.is_jit_tracing(), private._jit_tracing()()])
        return x + 1

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, that there are newer ways
        torch.jit.trace(traced, torch.ones(2), check_trace=False)
    assert seen == [True, True]
    assert not private.is_jit_tracing()
    monkeypatch.delattr(torch._C, "_is_tracing")
    assert not private._jit_tracing()()


def test_versions_rise_with_writes() -> None:
    """By one each; tensors that count none, or have no such name, are at 0."""
    x = torch.zeros(2)
    before = private.version_of(x)
    x.add_(1.0)
    assert private.version_of(x) == before + 1
    with torch.inference_mode():
        assert private.version_of(torch.zeros(2)) == 0
    assert private.version_of(SimpleNamespace()) == 0  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_stored_values_are_a_view() -> None:
    """What is written there is in the tensor, coalesced or not; the public name does the same where it may."""
    loose = torch.sparse_coo_tensor([[0, 0]], [1.0, 2.0], (2,))
    private.stored_values(loose).mul_(2.0)
    assert loose.to_dense().tolist() == [6.0, 0.0]
    tight = loose.coalesce()
    without = SimpleNamespace(detach=tight.detach)
    assert private.stored_values(without).tolist() == private.stored_values(tight).tolist() == [6.0]  # type: ignore[arg-type]


def test_lazy_zeros_and_fakes_are_told() -> None:
    """From tensors with memory and numbers; without the names, nothing is told."""
    assert private.is_lazy_zero(torch._efficientzerotensor(2))
    assert not private.is_lazy_zero(torch.zeros(2))
    assert not private.is_lazy_zero(SimpleNamespace())  # type: ignore[arg-type]
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode():
        assert private.is_fake(torch.zeros(2))
    assert not private.is_fake(torch.zeros(2))


def test_transforms_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside `torch.func`, and not outside; without the name, none is seen."""
    found: list[object] = []
    torch.func.grad(lambda x: found.extend([private.transform(), private._transform()()]) or x.sum())(torch.ones(2))
    assert len(found) == 2 and None not in found
    assert private.transform() is None
    monkeypatch.delattr(torch._C, "_functorch")
    assert private._transform()() is None


def test_hooks_of_a_class_that_was_swapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that overrides one which runs hooks may run them; without the mark, any."""
    optimizer: Any = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    optimizer.__class__ = type("Swapped", (torch.optim.SGD,), {"step": lambda self: None})
    assert (private.runs_hooks(optimizer), private.runs_hooks(optimizer, inherited=True)) == (False, True)
    bare: Any = type("Bare", (torch.optim.Optimizer,), {"step": lambda self: None}).__new__(torch.optim.Optimizer)
    assert not private.runs_hooks(bare, inherited=True)
    monkeypatch.setattr(private, "_marks_hooked_steps", lambda: False)
    assert private.runs_hooks(bare, inherited=True)


def test_copy_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Together or one by one."""
    for name in ("", "_foreach_copy_"):
        if name:
            monkeypatch.delattr(torch, name)
        tensors = [torch.zeros(3), torch.zeros(2)]
        private.copy_each_(tensors, [torch.ones(3), torch.full((2,), 4.0)])
        assert [x.tolist() for x in tensors] == [[1.0] * 3, [4.0] * 2]


@pytest.mark.parametrize("order", [1.0, 2.0, float("inf")])
def test_norms_in_float64(order: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same in one launch as in one each."""
    tensors = [torch.randn(5, 7), torch.randn(3).to(torch.bfloat16)]
    together = private.norms_in_float64(tensors, order)
    monkeypatch.delattr(torch, "_foreach_norm")
    apart = private.norms_in_float64(tensors, order)
    assert [x.dtype for x in together] == [torch.float64] * 2
    torch.testing.assert_close(together, apart, rtol=1e-14, atol=0.0)


def test_sums_of_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """In any order of groups, of which one may have nothing."""
    places, order, starts = (torch.tensor(x) for x in ([2, 0, 2, 0], [1, 3, 0, 2], [0, 2, 2, 4]))
    for name in ("", "segment_reduce"):
        if name:
            monkeypatch.delattr(torch, name)
        sums = private.sums_of_groups(torch.tensor([1.0, 2.0, 4.0, 8.0]).double(), places, order, starts)
        assert sums.tolist() == [10.0, 0.0, 5.0]


def test_dtensors_say_the_same_in_public() -> None:
    """Private names cost less; public ones answer alike."""
    with forked(RankPool(2)) as pool:
        for rank, found in enumerate(pool.run(torch_private_workers.dtensors)):
            assert found["same object"] and found["dtype"] and found["shared"]
            assert found["spec"] == (True, True, True)
            assert found["local"] == ([[rank + 1.0] * 3] * 2,) * 2
            assert found["pieces"] == [[[0.0, 1.0, 2.0], [3.0, 4.0]]] * 2
            assert "cpu" in found["devices"]


def test_what_has_arrived_stays_as_it_is() -> None:
    """Only what a collective is still making is waited for."""
    x = torch.ones(2)
    assert spread.arrived(x) is x
    assert spread.arrived(nn.Parameter(x)).tolist() == [1.0, 1.0]


def test_hooks_of_optimizers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which optimizers run them, which there are, and which runs last."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    assert private.runs_hooks(optimizer)

    class Bare(torch.optim.Optimizer):
        def __init__(self) -> None:
            self.param_groups = []

        def step(self) -> None: ...

    assert not private.runs_hooks(Bare())
    ran: list[int] = []
    first = optimizer.register_step_pre_hook(lambda *_: ran.append(1))
    optimizer.register_step_pre_hook(lambda *_: ran.append(2))
    assert len(private.step_hooks_of(optimizer)) == 2
    private.run_last(optimizer, first)
    optimizer.step()
    assert ran == [2, 1]
    assert private.step_hooks_of(SimpleNamespace()) == {}  # type: ignore[arg-type]
    private.run_last(SimpleNamespace(), first)
    monkeypatch.setattr(private, "_marks_hooked_steps", lambda: False)
    assert private.runs_hooks(Bare())


def test_the_stack_tells_which_optimizer_steps() -> None:
    """The frame that called a hook is that of the step."""
    seen: list[Any] = []
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    optimizer.register_step_pre_hook(lambda *_: seen.append(private.stepping_optimizer(sys._getframe(1))))
    optimizer.step()
    assert seen == [optimizer]
    assert private.stepping_optimizer(sys._getframe()) is None


def test_a_checkpoint_steps_to_have_an_optimizer_make_its_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a function that is on the stack then; without the name, nobody knows."""
    module = pytest.importorskip("torch.distributed.checkpoint.state_dict")
    found: list[bool] = []
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    optimizer.register_step_pre_hook(lambda *_: found.append(sys._getframe(2).f_code is private.state_making_code()))
    module._init_optim_state(optimizer)
    assert found == [True]
    monkeypatch.delattr(module, "_init_optim_state")
    assert private.state_making_code() is None
    monkeypatch.delitem(sys.modules, module.__name__)
    assert private.state_making_code() is None


def test_what_a_scaler_leaves() -> None:
    """Whether it has scaled, what it found, and what it tells a fused optimizer."""
    p = nn.Parameter(torch.ones(1))
    optimizer, scaler = torch.optim.SGD([p], lr=0.1), torch.amp.GradScaler("cpu", init_scale=4.0)
    assert not private.has_scaled(scaler)
    scaler.scale(p.sum()).backward()
    assert private.has_scaled(scaler)
    assert private.overflows_found(scaler, optimizer) is None
    scaler.unscale_(optimizer)
    assert [float(x) for x in private.overflows_found(scaler, optimizer) or []] == [0.0]
    bare: Any = SimpleNamespace(is_enabled=lambda: True)
    assert private.has_scaled(bare)
    assert private.overflows_found(bare, optimizer) is None

    assert private.fused_scale(optimizer) is None and private.fused_overflow(optimizer) is None
    fused = torch.optim.SGD([p], lr=0.1, fused=True)
    seen: list[Any] = []
    fused.register_step_pre_hook(lambda *_: seen.extend([private.fused_scale(fused), private.fused_overflow(fused)]))
    again = torch.amp.GradScaler("cpu", init_scale=4.0)
    p.grad = None
    again.scale(p.sum()).backward()
    again.step(fused)
    assert [float(x) for x in seen] == [4.0, 0.0]
    fused.grad_scale = torch.ones(())
    private.forget_fused_scale(fused)
    assert private.fused_scale(fused) is None


def test_fsdp1_knows_its_pieces() -> None:
    """The handle has its flat parameter; the shards of 4 elements on 2 ranks need no padding."""
    with forked(RankPool(2)) as pool:
        for found in pool.run(torch_private_workers.handles):
            assert found["numels"] == [(4, True, False)]
            assert found["of model"] == ([4], True, False)
            assert found["of another"] == ([], False)
            assert found["flat"] == [True]
            assert found["gathered"] == [True, False]
            assert found["marked"]
            assert found["padding"] == found["no padding"] == 0


IMPORTED_WITHOUT = """
import torch
del torch._C._len_torch_dispatch_stack, torch._C._is_tracing, torch._foreach_norm
del torch.optim.Optimizer.profile_hook_step
import gradclip
p = torch.nn.Parameter(torch.zeros(2))
p.grad = torch.tensor([3.0, 4.0])
assert gradclip.clip_grad_norm_([p], 1.0).item() == 5.0
"""


def test_a_torch_without_them_is_imported() -> None:
    """A new torch may cost speed or a check, and never the import."""
    printed(IMPORTED_WITHOUT)


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad])
def test_a_fused_step_reads_whether_it_happens(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the attribute, of whom a hook says the step is; without the name that tells, nobody relies on it."""
    parameter = nn.Parameter(torch.ones(3))
    optimizer = kind([parameter], lr=0.1, fused=True)
    plain = kind([parameter], lr=0.1)
    parameter.grad = torch.ones(3)
    optimizer.step()
    if kind is torch.optim.Adagrad and torch.__version__ < (2, 7):  # whose step reads it in vain
        assert not private.takes_overflow(optimizer)
        return
    assert private.takes_overflow(optimizer)
    assert not private.takes_overflow(plain)
    stand_in = object.__new__(kind)
    stand_in.__dict__ = {**vars(optimizer), private.FUSED_OVERFLOW: torch.ones(())}
    handle = optimizer.register_step_pre_hook(lambda _, args, kwargs: ((stand_in, *args[1:]), kwargs))
    before = parameter.detach().clone()
    optimizer.step()
    assert torch.equal(parameter, before)
    handle.remove()
    optimizer.step()
    assert not torch.equal(parameter, before)
    monkeypatch.delattr(optimizer, "_step_supports_amp_scaling")
    assert not private.takes_overflow(optimizer)
