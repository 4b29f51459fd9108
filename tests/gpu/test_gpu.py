"""The contract on a GPU: the numbers of the CPU, nothing waits, three launches, graphs, scalers, shards."""

import contextlib
import math
import threading
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import gradclip
import reference
from calls import BOUND, CALLS
from conftest import skip_without
from gradclip.clipper.skips import LATE
from gradclip.ops import registry
from gradclip.policies import AGC, FixedNorm, Layout, MedianClip, Norms, Policy, ZClip
from gradclip.records import Memory
from gradclip.stages import Stage
from policies.cases import CASES, LAYOUT, SHAPES, clipper_of, gradients, model

NARROW = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture(autouse=True)
def _cuda() -> None:
    if not torch.cuda.is_available():
        skip_without("cuda", "there is no CUDA device")


@contextlib.contextmanager
def no_waits() -> Iterator[None]:
    """Fail where the host waits for the device."""
    torch.cuda.synchronize()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is a prototype feature, torch says
            torch.cuda.set_sync_debug_mode("error")
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def owners(gradients: list[Tensor]) -> list[Parameter]:
    found = [Parameter(torch.zeros_like(x, memory_format=torch.preserve_format)) for x in gradients]
    for parameter, gradient in zip(found, gradients, strict=True):
        parameter.grad = gradient
    return found


def drawn(dtype: torch.dtype = torch.float32, scale: float = 1.0) -> list[Tensor]:
    """Gradients of many sizes on the GPU, dense in several orders of dimensions, and one that is not aligned."""
    shapes = [(3,), (1000, 300), (64, 3, 7, 7), (1,), (0,), (70_001,)]
    found = [torch.randn(shape, device="cuda") * scale for shape in shapes]
    found.append(torch.randn(30, 50, device="cuda").t() * scale)
    found.append((torch.randn(8, 4, 5, 5, device="cuda") * scale).to(memory_format=torch.channels_last))
    return [*(x.to(dtype) for x in found), (torch.randn(4099, device="cuda") * scale).to(dtype)[3:]]


def exact(gradients: list[Tensor]) -> float:
    return math.sqrt(math.fsum(x.detach().cpu().double().square().sum().item() for x in gradients))


# Numbers.


def test_the_kernels_answer() -> None:
    """Or what follows tests plain torch."""
    assert registry.why_no_triton() == ""
    assert type(registry.open_(drawn())).__name__ == "TritonBatch"


@pytest.mark.parametrize("dtype", NARROW, ids=str)
@pytest.mark.parametrize("scale", [1e-20, 1e-3, 1.0, 1e3, 1e18])
@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_norm_and_clip_are_exact(dtype: torch.dtype, scale: float, backend: str) -> None:
    """The norm to 2 ulp of float32, each element rounded once; without a wait, in plain torch too."""
    gradients = [x for x in drawn(dtype, scale) if bool(x.isfinite().all())]
    truth = exact(gradients)
    if truth == 0.0:
        pytest.skip("all are rounded to 0")
    before = [x.clone() for x in gradients]
    bound = truth / 3.0
    parameters = owners(gradients)
    with registry.forced(backend), no_waits():
        norm = gradclip.clip_grad_norm_(parameters, bound)
    assert reference.float32_ulps(norm.item(), truth) <= 2
    coef = min(1.0, bound / (truth + 1e-6))
    for x, old in zip(gradients, before, strict=True):
        some = slice(0, 500)
        expected = reference.scaled(old.flatten()[some].cpu(), coef)
        assert x.flatten()[some].cpu().double().tolist() == pytest.approx(expected, rel=1e-6, abs=0.0)


@pytest.mark.parametrize("value", [1e-45, 1e-38, 1e20, 3e38])
def test_ends_of_the_range(value: float) -> None:
    """Where torch's own norm is 0 or infinite."""
    x = torch.full((1000,), value, device="cuda")
    norm = gradclip.get_total_norm([x])
    truth = x[0].item() * math.sqrt(1000)
    assert reference.float32_ulps(norm.item(), float(torch.tensor(truth, dtype=torch.float32))) <= 2


def test_many_elements() -> None:
    """2e8 of 0.1, and more than 2**31."""
    x = torch.full((200_000_000,), 0.1, device="cuda")
    truth = x[0].item() * math.sqrt(x.numel())
    assert reference.float32_ulps(gradclip.get_total_norm([x]).item(), truth) <= 2
    del x
    many = torch.full((2**31 + 77,), 0.5, dtype=torch.bfloat16, device="cuda")
    parameter = owners([many])
    assert gradclip.clip_grad_norm_(parameter, 1e4).item() == pytest.approx(0.5 * math.sqrt(many.numel()), rel=2e-7)
    assert many[-1].item() == many[0].item() == pytest.approx(0.5e4 / (0.5 * math.sqrt(many.numel())), rel=4e-3)


@pytest.mark.parametrize("order", [0.0, 0.5, 1.0, 2.0, 3.3, 20.0, math.inf, -math.inf, -1.0])
def test_orders(order: float) -> None:
    """The same as on the CPU, which is held to the oracle."""
    gradients = [x for x in drawn() if x.numel()]
    ours = gradclip.get_total_norm(gradients, order).item()
    assert ours == pytest.approx(gradclip.get_total_norm([x.cpu() for x in gradients], order).item(), rel=3e-7)


def test_grouping_and_repetition() -> None:
    """The same bits at every call; in other tensors, the same to the last place of float32."""
    x = torch.randn(3_000_001, device="cuda")
    norm = gradclip.get_total_norm([x])
    for _ in range(5):
        assert torch.equal(gradclip.get_total_norm([x.clone()]), norm)
    parts = gradclip.get_total_norm(list(x.split(7919)))
    assert reference.float32_ulps(parts.item(), norm.item()) <= 1


def test_units_are_added_up_in_one_order() -> None:
    """The norms of parameters that follow from those of their units have the same bits each time."""
    layout = Layout(("a", "b"), (10**6, 10**6), (200_000, 100_000), device=torch.device("cuda", 0))
    units = torch.rand(300_000, dtype=torch.float64, device="cuda")
    norms = Norms(layout, 2.0, 1.0, units=units)
    first = norms.with_units(units).of_parameters()
    torch.testing.assert_close(first[0], torch.linalg.vector_norm(units[:200_000]), rtol=1e-12, atol=0.0)
    for _ in range(10):
        assert torch.equal(norms.with_units(units).of_parameters(), first)


def test_a_loop_beside_the_cpu() -> None:
    """Gradients are new at every step, as memory is used again; every clip is that of the CPU."""
    shapes = [(257, 129), (129,), (64, 3, 3, 3), (5,)]
    here = [Parameter(torch.zeros(shape)) for shape in shapes]
    there = [Parameter(torch.zeros(shape, device="cuda")) for shape in shapes]
    for step in range(60):
        torch.manual_seed(step)
        for a, b in zip(here, there, strict=True):
            a.grad = torch.randn(a.shape)
            b.grad = a.grad.cuda()
        expected = gradclip.clip_grad_norm_(here, 30.0)
        assert gradclip.clip_grad_norm_(there, 30.0).item() == pytest.approx(expected.item(), rel=2e-7)
        for a, b in zip(here, there, strict=True):
            torch.testing.assert_close(b.grad.cpu(), a.grad, rtol=2e-7, atol=0.0)
            b.grad = None


def test_no_element_at_all() -> None:
    """A rank whose shards are all empty."""
    parameters = owners([torch.zeros(0, 4, device="cuda")])
    assert gradclip.clip_grad_norm_(parameters, 1.0).item() == 0.0
    assert gradclip.clip_grad_norm_(parameters, 1.0, math.inf).item() == 0.0


def test_a_thread_of_its_own() -> None:
    """A new thread has no context yet, and its memory outlives it."""
    x = torch.full((1 << 22,), 2.0, device="cuda")
    found: list[Tensor] = []
    gradclip.clip_grad_norm_(owners([x]), math.inf)
    for _ in range(4):
        torch.cuda._sleep(50_000_000)
        thread = threading.Thread(target=lambda: found.append(gradclip.clip_grad_norm_(owners([x]), math.inf)))
        thread.start()
        thread.join()
        torch.full((1 << 12,), -1, dtype=torch.int64).pin_memory()
    assert [norm.item() for norm in found] == [4096.0] * 4


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_odd_gradients_beside_dense_ones() -> None:
    """Strided and sparse ones, two dtypes, and parameters on the CPU."""
    strided = torch.randn(60, 40, device="cuda")[:, ::2]
    sparse = torch.sparse_coo_tensor([[0, 0, 2]], [1.0, 2.0, 4.0], (5,)).cuda()
    gradients = [strided, torch.randn(1000, device="cuda"), torch.randn(70).cuda().to(torch.bfloat16), torch.randn(9)]
    parameters = owners(gradients)
    parameters.append(Parameter(torch.zeros(5, device="cuda")))
    parameters[-1].grad = sparse
    truth = math.hypot(exact(gradients), 3.0, 4.0)
    assert gradclip.clip_grad_norm_(parameters, 1.0).item() == pytest.approx(truth, rel=2e-7)
    assert gradclip.clip_grad_norm_(parameters, math.inf).item() == pytest.approx(1.0, rel=1e-3)


def test_another_stream() -> None:
    """Kernels go to the stream that is current, each with memory of its own."""
    x = torch.ones(1 << 20, device="cuda")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(20):
            x.mul_(2.0)
            x.mul_(0.5)
        norm = gradclip.clip_grad_norm_(owners([x]), 512.0)
        after = x.sum()
    torch.cuda.current_stream().wait_stream(stream)
    assert norm.item() == 1024.0
    assert after.item() == pytest.approx(2**19, rel=1e-6)


def test_models_and_streams_in_turns() -> None:
    """What is kept of a clip is that of its model and stream: others in between change nothing."""
    streams = [torch.cuda.current_stream(), torch.cuda.Stream()]
    models = [[torch.randn(n % 50 + 1) for n in range(count)] for count in (300, 7)]
    for step in range(6):
        for drawn_once in models:
            truth = math.sqrt(sum(x.double().square().sum().item() for x in drawn_once))
            with torch.cuda.stream(streams[step % 2]):
                parameters = owners([x.cuda() for x in drawn_once])
                norm = gradclip.clip_grad_norm_(parameters, 0.5)
                after = gradclip.get_total_norm([p.grad for p in parameters])
                assert norm.item() == pytest.approx(truth, rel=1e-6)
                assert after.item() == pytest.approx(0.5, rel=1e-5)


def test_what_is_current() -> None:
    """The names of torch that are not published say what the published ones do."""
    from gradclip import torch_private as private

    assert private.current_cuda_device() == torch.cuda.current_device()
    for stream in (torch.cuda.current_stream(), torch.cuda.Stream()):
        with torch.cuda.stream(stream):
            assert private.current_cuda_stream(torch.cuda.current_device()) == stream.cuda_stream


def test_by_the_launcher_of_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other way to launch has the same bits."""
    import triton

    from gradclip.ops.triton import driver, lane, launch

    gradients = drawn()
    copies = [x.clone() for x in gradients]
    norm = gradclip.clip_grad_norm_(owners(gradients), 1.0)
    assert launch.is_by_driver() or driver.found() is None or triton.__version__ < "3.6"
    monkeypatch.setattr(launch, "_compiled", {})
    monkeypatch.setattr(lane, "_LANES", lane._Lanes())
    monkeypatch.setattr(driver, "found", lambda: None)
    assert torch.equal(gradclip.clip_grad_norm_(owners(copies), 1.0), norm)
    assert all(torch.equal(a, b) for a, b in zip(gradients, copies, strict=True))


# Waits and launches.


def test_a_wait_is_seen() -> None:
    """Or what follows tests nothing."""
    x = torch.ones((), device="cuda")
    with pytest.raises(RuntimeError, match="synchroniz"), no_waits():
        x.item()


@pytest.mark.parametrize("name", CALLS)
def test_functions_wait_for_nothing(name: str) -> None:
    """Not for a number, and not for a copy."""
    BOUND[:] = [torch.ones((), device="cuda")]
    parameters = owners(drawn())
    CALLS[name](parameters)  # compiles
    with no_waits():
        CALLS[name](parameters)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.policy.skips])
def test_policies_wait_for_nothing(name: str) -> None:
    """Where they let what is not finite pass; and they decide as on the CPU."""
    here, there = outcomes(CASES[name].policy, "cpu"), outcomes(CASES[name].policy, "cuda")
    for ours, expected in zip(there, here, strict=True):
        for key, value in expected.items():
            torch.testing.assert_close(ours[key].cpu(), value, rtol=1e-9, atol=0.0)


def outcomes(policy: Policy, device: str) -> list[dict[str, Tensor]]:
    parameters = {name: Parameter(p.detach().to(device)) for name, p in model().items()}
    clipper = clipper_of(policy, parameters, nonfinite="propagate")
    found: list[dict[str, Tensor]] = []
    for step in range(12):
        torch.manual_seed(step)
        for name in SHAPES:
            parameters[name].grad = torch.randn(SHAPES[name], dtype=torch.float64).to(device)
        with no_waits() if device == "cuda" and step > 2 else contextlib.nullcontext():
            clipper.clip()
        found.append({name: p.grad.clone() for name, p in parameters.items() if p.grad is not None})
    return found


def norms_there(layout: Layout, total: Tensor) -> Norms:
    """The norms of a step, of which all have the same."""
    each, units = (total * torch.ones(n, dtype=torch.float64, device="cuda") for n in (3, 3))
    return Norms(layout, 2.0, total, each, units, units)


@pytest.mark.parametrize("name", CASES)
def test_a_decision_is_few_launches(name: str) -> None:
    """One or two where there are kernels, and at most five of torch."""
    for part in CASES[name].policy.stages:
        stage = Stage(part, replace(LAYOUT, device=torch.device("cuda")))
        norms = norms_there(stage.layout, torch.full((), 1.5, dtype=torch.float64, device="cuda"))
        for _ in range(25):
            stage.decide(norms)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            stage.decide(norms)
            norms.total.neg()  # which is seen, or nothing would be
            torch.cuda.synchronize()
        there = [event.name for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]
        assert 1 <= len(there) <= 6


def test_three_launches() -> None:
    """Measure, combine, scale: for any number of tensors."""
    parameters = owners([torch.randn(n % 50 + 1, device="cuda") for n in range(500)])
    gradclip.clip_grad_norm_(parameters, 1.0)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        gradclip.clip_grad_norm_(parameters, 1e-3)
        torch.cuda.synchronize()
    there = [event for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    kernels = [event.name for event in there if "emcpy" not in event.name and "emset" not in event.name]
    assert sorted(kernels) == ["combine", "measure_powers", "scale"]


@pytest.mark.filterwarnings("default", "error:.*custom operator")
@pytest.mark.parametrize("name", ["clips", "keeps", "order inf", "order 3.3", "norms", "by a known norm", "by value"])
def test_compiled_functions(name: str) -> None:
    """One graph, with the bits of a call outside of it. With one odd gradient, a compiler takes none to be aligned."""
    BOUND[:] = [torch.ones((), device="cuda")]
    *aligned, odd = drawn()
    for given in ([*aligned, odd], aligned):
        here, there = owners([x.clone() for x in given]), owners(given)
        CALLS[name](here)
        torch.compile(CALLS[name], fullgraph=True)(there)
        assert all(torch.equal(p.grad, q.grad) for p, q in zip(here, there, strict=True))


# In a training loop.


def test_a_captured_graph() -> None:
    """Replays do bit for bit what eager steps do, and the table outlives the capture."""
    torch.manual_seed(0)
    weights = [torch.randn(64, 64, device="cuda") for _ in range(6)]
    eager, captured = ([Parameter(w.clone()) for w in weights] for _ in range(2))
    optimizers = [torch.optim.SGD(parameters, lr=0.1) for parameters in (eager, captured)]
    batch = torch.randn(32, 64, device="cuda")

    def step(parameters: list[Parameter], optimizer: torch.optim.Optimizer) -> Tensor:
        x = batch
        for p in parameters:
            x = torch.tanh(x @ p)
        x.square().sum().backward()
        norm = gradclip.clip_grad_norm_(parameters, 0.5)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        return norm

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step(captured, optimizers[1])
            step(eager, optimizers[0])
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        norm = step(captured, optimizers[1])
    for _ in range(10):
        batch.normal_()
        graph.replay()
        torch.full(
            (1 << 16,), 7, dtype=torch.int64
        ).pin_memory()  # what was pinned for the graph is not given to others
        expected = step(eager, optimizers[0])
        assert torch.equal(norm, expected)
        assert all(torch.equal(a, b) for a, b in zip(eager, captured, strict=True))


@pytest.mark.filterwarnings("ignore:This instance was constructed with capturable=True")
@pytest.mark.parametrize(
    "policy", [ZClip(1.0, warmup=2), MedianClip(1.0, window=8, warmup=2)], ids=["ZClip", "MedianClip"]
)
def test_a_captured_step(policy: Policy) -> None:
    """Backward, a clip by a rule that learns, and a fused step: replays do bit for bit what eager steps do."""
    torch.manual_seed(0)
    weights = [torch.randn(64, 64, device="cuda") for _ in range(6)]
    eager, captured = ([Parameter(w.clone()) for w in weights] for _ in range(2))
    clippers = [gradclip.GradClipper(own, policy, nonfinite="propagate") for own in (eager, captured)]
    optimizers = [torch.optim.AdamW(own, lr=1e-3, fused=True, capturable=True) for own in (eager, captured)]
    batch = torch.randn(32, 64, device="cuda")

    def step(which: int) -> None:
        x = batch
        for p in (eager, captured)[which]:
            x = torch.tanh(x @ p)
        x.square().sum().backward()
        clippers[which].clip()
        optimizers[which].step()
        optimizers[which].zero_grad(set_to_none=False)

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(5):
            step(0)
            step(1)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(1)
    for _ in range(10):
        batch.normal_()
        graph.replay()
        step(0)
        assert all(torch.equal(a, b) for a, b in zip(eager, captured, strict=True))
    assert clippers[0].state_dict()["stages"] == clippers[1].state_dict()["stages"]


def test_what_a_graph_copies_outlives_its_capture() -> None:
    """The places of those that have a gradient, where not all do, and of those that no kernel takes."""
    torch.manual_seed(0)
    eager, captured = (owners([torch.ones(30, n, device="cuda")[:, : 1 + n // 2] for n in (9, 40, 1)]) for _ in "ab")
    clippers = []
    for own in (eager, captured):
        own.insert(1, Parameter(torch.zeros(5, device="cuda")))
        own.append(Parameter(torch.zeros(7, device="cuda", dtype=torch.bfloat16)))
        own[-1].grad = torch.ones_like(own[-1])
        clippers.append(gradclip.GradClipper(own, FixedNorm(0.5, scope="parameter"), nonfinite="propagate"))
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for clipper in clippers * 2:
            clipper.clip()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        clippers[1].clip()
    for _ in range(10):
        for a, b in zip(eager, captured, strict=True):
            if a.grad is not None:
                b.grad.copy_(a.grad.normal_())
        others = [torch.full((n,), -1, dtype=torch.int64) for n in range(1, 200)]
        clippers[0].clip()
        graph.replay()
        assert all(a.grad is None or torch.equal(a.grad, b.grad) for a, b in zip(eager, captured, strict=True))
        assert len(others) == 199


@pytest.mark.parametrize("fused", [False, True])
def test_under_a_scaler(fused: bool) -> None:
    """Gradients in half precision are unscaled once, then clipped; an overflow is the scaler's to skip."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1)).cuda()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=fused)
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0**30)
    clipper = gradclip.GradClipper(net, FixedNorm(0.1)).attach(optimizer, scaler=scaler)
    clipped = 0
    for _ in range(30):
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.float16):
            loss = net(torch.randn(8, 16, device="cuda")).float().square().mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        if clipper.last is not None and clipper.last.skipped is None:
            clipped += 1
            assert clipper.last.total_norm_after <= 0.1 * (1 + 1e-6)
    assert clipped > 5
    assert all(bool(p.isfinite().all()) for p in net.parameters())


FUSED = {
    "Adam": lambda ps: torch.optim.Adam(ps, lr=0.1, amsgrad=True, fused=True),
    "AdamW": lambda ps: torch.optim.AdamW(ps, lr=0.1, fused=True),
    "SGD": lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9, fused=True),
}


@pytest.mark.parametrize("make", FUSED.values(), ids=FUSED)
def test_fused_steps_are_skipped_without_a_wait(make: Any) -> None:
    """Parameters, state and step counts stay bit for bit, the next step happens, too many raise late, records tell."""
    net, memory = torch.nn.Linear(8, 8).cuda(), Memory()
    optimizer = make(net.parameters())
    clipper = gradclip.GradClipper(net, max_consecutive_skips=2, sinks=[memory]).attach(optimizer)

    def step(value: float, *, ends: bool = False) -> list[Tensor]:
        for p in net.parameters():
            p.grad = torch.full_like(p, value)
        torch.cuda.synchronize()
        # The first makes the state; the one that raises looks at what it raises for.
        with no_waits() if optimizer.state and not ends else contextlib.nullcontext():
            optimizer.step()
        state = [x for p in net.parameters() for x in optimizer.state[p].values()]
        return [x.detach().clone() for x in (*net.parameters(), *state)]

    before = step(1.0)
    assert all(map(torch.equal, before, step(float("nan"))))
    assert clipper.last is not None
    assert clipper.last.skipped == "skipped_nonfinite"
    assert not torch.equal(before[0], step(0.5)[0])
    for _ in range(2 + LATE):
        step(float("inf"))
    with pytest.raises(gradclip.ConsecutiveSkipsError, match="skipped_nonfinite"):
        step(float("inf"), ends=True)
    gradclip.records.flush()
    found = [record.nonfinite for record in memory.records]
    assert found[:3] == [None, {"weight": (64, 0), "bias": (8, 0)}, None]
    assert found[3:] == [{"weight": (0, 64), "bias": (0, 8)}] * (3 + LATE)


@pytest.mark.parametrize("name", CASES)
def test_what_a_device_decides_is_what_the_host_would(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameters, the state of the optimizer and what was learned, over steps that happen and steps that do not."""
    ours, decided_there = trained(CASES[name].policy)
    assert any(decided_there) is (name != "chain of two stages")  # which measures twice
    monkeypatch.setattr("gradclip.clipper.withhold.Ground.allows", lambda *_: False)
    expected, decided_there = trained(CASES[name].policy)
    assert not any(decided_there)
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-15, equal_nan=True)


def trained(policy: Policy) -> tuple[list[Any], list[bool]]:
    """Train for some steps; return all that there is after each, and of which the host knew only later."""
    parameters = {name: Parameter(p.detach().cuda()) for name, p in model().items()}
    optimizer = torch.optim.AdamW(parameters.values(), lr=0.01, fused=True)
    clipper = clipper_of(policy, parameters).attach(optimizer)
    found: list[Any] = []
    decided_there: list[bool] = []
    for step in range(12):
        for name, x in gradients(step, scale=1e6 if step == 8 else 1.0).items():
            parameters[name].grad = (x * {4: math.inf, 9: math.nan}.get(step, 1.0)).cuda()
        optimizer.step()
        last = clipper._last
        assert last is not None
        decided_there.append(isinstance(last.withheld, Tensor))
        state = [x.clone() for p in parameters.values() for x in optimizer.state[p].values()]
        result = last.result
        found.append([*(p.detach().clone() for p in parameters.values()), *state, result.threshold, result.total_norm])
    return found, decided_there


@pytest.mark.filterwarnings("ignore:This instance was constructed with capturable=True")
def test_a_captured_step_is_skipped() -> None:
    """A graph decides at each replay whether its step happens."""
    net = torch.nn.Linear(8, 8).cuda()
    optimizer = torch.optim.AdamW(net.parameters(), lr=torch.tensor(0.1, device="cuda"), fused=True, capturable=True)
    clipper = gradclip.GradClipper(net).attach(optimizer)
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            optimizer.step()
    side.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side):
        optimizer.step()
    for value, happens in ((1.0, True), (float("nan"), False), (0.5, True)):
        before = net.weight.detach().clone()
        for p in net.parameters():
            p.grad.fill_(value)
        graph.replay()
        assert torch.equal(before, net.weight) is not happens
    assert clipper.state_dict()["skips"] == 0


def test_a_step_that_is_skipped() -> None:
    """Parameters, state and gradients stay as they were."""
    net = torch.nn.Linear(8, 8).cuda()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
    clipper = gradclip.GradClipper(net, ZClip(1.0)).attach(optimizer)
    net(torch.randn(4, 8, device="cuda")).square().sum().backward()
    optimizer.step()
    before = [p.detach().clone() for p in net.parameters()]
    net.weight.grad[0, 0] = math.nan
    optimizer.step()
    assert clipper.last is not None and clipper.last.skipped is not None
    assert all(torch.equal(p, old) for p, old in zip(net.parameters(), before, strict=True))
    with pytest.raises(gradclip.NonFiniteGradientError, match="1 NaN"):
        gradclip.clip_grad_norm_(net.named_parameters(), 1.0, error_if_nonfinite=True)
    gradclip.clip_grad_norm_(net, 1.0, nonfinite="sanitize")
    assert net.weight.grad[0, 0].item() == 0.0


@pytest.mark.parametrize("axes", [("shard",), ("copy", "shard")], ids=" ".join)
def test_fsdp2_on_one_rank(tmp_path: Any, axes: tuple[str, ...]) -> None:
    """DTensors by NCCL: the norm of the whole, for which nobody waits."""
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    distributed.init_process_group("nccl", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        net = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 8)).cuda()
        mesh = init_device_mesh("cuda", (1,) * len(axes), mesh_dim_names=axes)
        for layer in net:
            fully_shard(layer, mesh=mesh)
        fully_shard(net, mesh=mesh)
        net(torch.randn(4, 64, device="cuda")).square().sum().backward()
        truth = exact([p.grad.to_local() for p in net.parameters()])
        gradclip.clip_grad_norm_(net.parameters(), truth * 2)  # compiles
        gradclip.get_norms(net.parameters(), -1.0)
        by_unit = gradclip.GradClipper(net, AGC(1e9), nonfinite="propagate")
        for _ in range(3):
            by_unit.clip()
        with no_waits():
            by_unit.clip()
            gradclip.get_norms(net.parameters(), -1.0)
            norm = gradclip.clip_grad_norm_(net.parameters(), truth / 2)
        assert norm.item() == pytest.approx(truth, rel=2e-7)
        assert exact([p.grad.to_local() for p in net.parameters()]) == pytest.approx(truth / 2, rel=1e-5)
    finally:
        distributed.destroy_process_group()
