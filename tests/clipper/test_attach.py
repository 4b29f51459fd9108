"""A clipper and the optimizer that it is attached to."""

import gc
import math
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradclip
from clipper.training import OPTIMIZERS, backward, batches, gradients, loss_of, network, norm_of, same_bits, train
from gradclip import GradClipper, MisuseWarning
from gradclip.clipper.watching import WATCHERS
from gradclip.policies import AGC, AdaGC, AutoClip, FixedNorm, Policy, ZClip, by_group, by_name
from gradclip.testing import capture_records


def train_by_torch(name: str, steps: int, max_norm: float) -> Any:
    net = network()
    optimizer = OPTIMIZERS[name](net.parameters())
    for batch in batches(steps):
        backward(net, optimizer, batch)
        torch.nn.utils.clip_grad_norm_(net.parameters(), max_norm)
        optimizer.step()
    return net


# One optimizer.


@pytest.mark.parametrize("name", ["SGD", "SGD, momentum, fused", "AdamW", "AdamW, fused"])
def test_every_step_is_clipped(name: str) -> None:
    """As by hand, and as by torch but for rounding."""
    net = network()
    optimizer = OPTIMIZERS[name](net.parameters())
    clipper = GradClipper(net, FixedNorm(0.5))
    assert clipper.attach(optimizer) is clipper
    with capture_records(clipper) as records:
        for batch in batches(6):
            backward(net, optimizer, batch)
            before = norm_of(net)
            optimizer.step()
            assert clipper.last is not None and clipper.last.total_norm == pytest.approx(before, rel=1e-12)
            assert norm_of(net) == pytest.approx(0.5, rel=1e-5)
    assert [record.step for record in records] == [1, 2, 3, 4, 5, 6]
    for p, q in zip(net.parameters(), train_by_torch(name, 6, 0.5).parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_gradients_are_accumulated_and_clipped_once() -> None:
    """Four micro-batches, one clip: of the sum."""
    net = network()
    optimizer = OPTIMIZERS["SGD"](net.parameters())
    clipper = GradClipper(net, FixedNorm(0.5)).attach(optimizer)
    for batch in batches(4):
        loss_of(net, batch).backward()
    expected = norm_of(net)
    optimizer.step()
    assert clipper.last is not None and clipper.last.step == 1
    assert clipper.last.total_norm == pytest.approx(expected, rel=1e-12)


def test_detach_ends_clipping() -> None:
    """The steps after it are as without a clipper, and nothing is said about them."""
    net = network()
    optimizer = OPTIMIZERS["SGD"](net.parameters())
    clipper = GradClipper(net, FixedNorm(0.5)).attach(optimizer)
    train(net, optimizer, 0, 2)
    clipper.detach()
    for batch in batches(6)[2:]:
        backward(net, optimizer, batch)
        found = [x.clone() for x in gradients(net) if x is not None]
        optimizer.step()
        assert same_bits(gradients(net), found)
    assert clipper.last is not None and clipper.last.step == 2
    assert repr(clipper).endswith("scope='total'))")


def test_attach_again_after_detach() -> None:
    """Clipping goes on with the next step."""
    net = network()
    optimizer = OPTIMIZERS["SGD"](net.parameters())
    clipper = GradClipper(net, FixedNorm(0.5)).attach(optimizer)
    train(net, optimizer, 0, 2)
    clipper.detach(optimizer)
    train(net, optimizer, 2, 4)
    clipper.attach(optimizer)
    train(net, optimizer, 4, 6)
    assert clipper.last is not None and clipper.last.step == 4 and norm_of(net) == pytest.approx(0.5, rel=1e-5)


def test_a_with_statement_detaches() -> None:
    """At its end, and also where an error ends it."""
    net = network()
    optimizer = OPTIMIZERS["SGD"](net.parameters())
    clipper = GradClipper(net, FixedNorm(0.5))
    with clipper.attach(optimizer) as entered:
        assert entered is clipper and "attached to 1 optimizer)" in repr(clipper)
        train(net, optimizer, 0, 1)
    with pytest.raises(LookupError), clipper.attach(optimizer):
        raise LookupError
    assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks
    assert "attached" not in repr(clipper)


def test_a_schedule_of_the_learning_rate() -> None:
    """It counts every step, a skipped one too, and does not complain about the order of calls."""
    net = network()
    optimizer = OPTIMIZERS["AdamW"](net.parameters())
    GradClipper(net).attach(optimizer)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for batch in batches(4, poisoned=[0, 2]):
            backward(net, optimizer, batch)
            optimizer.step()
            scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.1 * 0.5**4
    assert {int(state["step"]) for state in optimizer.state.values()} == {2}


def test_no_gradient_at_all() -> None:
    """Nothing to clip is fine, and a policy learns nothing from it."""
    net = network()
    optimizer = OPTIMIZERS["SGD"](net.parameters())
    clipper = GradClipper(net, ZClip(1.0, warmup=2)).attach(optimizer)
    before = clipper.state_dict()["stages"]
    optimizer.step()
    assert clipper.last is not None
    assert (clipper.last.status, clipper.last.total_norm, clipper.last.coefficient) == ("ok", 0.0, 1.0)
    assert clipper.state_dict()["stages"] == before
    result = GradClipper(net, AGC()).clip()
    assert (result.status, result.total_norm_after) == ("ok", 0.0)


# Parameters.


def test_groups_have_policies_of_their_own() -> None:
    """Each parameter group is bounded by itself."""
    net = network()
    groups = [{"params": net[0].parameters()}, {"params": net[2].parameters()}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    GradClipper(optimizer, by_group([FixedNorm(0.5), FixedNorm(0.01)])).attach(optimizer)
    train(net, optimizer, 0, 1)
    assert norm_of(net[0]) == pytest.approx(0.5, rel=1e-5) and norm_of(net[2]) == pytest.approx(0.01, rel=1e-3)


def test_counted_only_and_ignored() -> None:
    """What is counted only bounds the others and stays; what is ignored does neither."""
    named = {name: nn.Parameter(torch.zeros(1)) for name in ("muon.a", "b", "c")}
    for size, p in zip((3.0, 4.0, 1000.0), named.values(), strict=True):
        p.grad = torch.tensor([size])
    policy = FixedNorm(1.0, eps=0.0)
    result = GradClipper(named.items(), policy, counted_only=["muon.*"], ignored=["c"], norms_every=1).clip()
    assert result.total_norm == 5.0 and result.norms() == {"muon.a": 3.0, "b": 4.0}
    assert [p.grad.item() for p in named.values() if p.grad is not None] == pytest.approx([3.0, 0.8, 1000.0])
    assert result.total_norm_after == pytest.approx(math.hypot(3.0, 0.8)) and result.status == "clipped"


def test_a_single_pattern_needs_no_list() -> None:
    """`ignored="*.bias"` says what `ignored=["*.bias"]` says, not the pattern of each letter."""
    assert repr(GradClipper(network(), ignored="*.bias")).startswith("GradClipper(2 parameters")


def test_tied_parameters_count_once() -> None:
    """Under whatever names they are listed."""
    p, q = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    p.grad, q.grad = torch.tensor([3.0]), torch.tensor([4.0])
    clipper = GradClipper([("embedding", p), ("body", q), ("head", p)], FixedNorm(1.0, eps=0.0), norms_every=1)
    result = clipper.clip()
    assert result.total_norm == 5.0 and result.norms() == {"embedding": 3.0, "body": 4.0}
    assert (p.grad.item(), q.grad.item()) == pytest.approx((0.6, 0.8))


@pytest.mark.parametrize("policy", [FixedNorm(0.5), AGC(), FixedNorm(0.5, scope="parameter")], ids=repr)
def test_frozen_parameters_may_thaw(policy: gradclip.policies.Policy) -> None:
    """They have no gradient at first, and are clipped once they get one."""
    net = network()
    net[0].requires_grad_(requires_grad=False)
    optimizer = OPTIMIZERS["SGD"](net.parameters())
    clipper = GradClipper(net, policy, norms_every=1).attach(optimizer)
    train(net, optimizer, 0, 2)
    assert clipper.last is not None and list(clipper.last.norms()) == ["2.weight", "2.bias"]
    net[0].requires_grad_(requires_grad=True)
    train(net, optimizer, 2, 4)
    assert list(clipper.last.norms()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert clipper.last.total_norm_after == pytest.approx(norm_of(net), rel=1e-6)


def test_a_group_added_later() -> None:
    """Of parameters of the clipper it is clipped; others are reported, once."""
    net, other = network(), nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD(net[2].parameters(), lr=0.1)
    clipper = GradClipper(net, FixedNorm(0.5)).attach(optimizer)
    backward(net, optimizer, batches(1)[0])
    optimizer.step()
    optimizer.add_param_group({"params": net[0].parameters()})
    train(net, optimizer, 0, 2)
    assert norm_of(net) == pytest.approx(0.5, rel=1e-5) and clipper.last is not None and clipper.last.step == 3
    optimizer.add_param_group({"params": [other]})
    other.grad = torch.ones(1)
    with pytest.warns(MisuseWarning, match=r"updates 1 parameters that no clipper clips: param_groups\[2\]\[0\]"):
        optimizer.step()
    optimizer.step()


# What LBFGS does with its closure.


def test_lbfgs_by_hand_in_its_closure() -> None:
    """Every gradient that it evaluates is clipped, and it is not called misuse."""
    net = network()
    optimizer = torch.optim.LBFGS(net.parameters(), lr=0.01, max_iter=4)
    clipper = GradClipper(net, FixedNorm(0.5))

    def closure() -> Tensor:
        loss = backward(net, optimizer, batches(1)[0])
        clipper.clip()
        assert norm_of(net) <= 0.5 * (1 + 1e-6)
        return loss

    for _ in range(5):
        optimizer.step(closure)
    assert clipper.state_dict()["step"] == sum(state["func_evals"] for state in optimizer.state.values()) >= 10


def test_lbfgs_goes_on_after_a_bad_evaluation() -> None:
    """One whose loss is NaN moves nothing, and the next step is as ever."""
    net = network()
    optimizer = torch.optim.LBFGS(net.parameters(), lr=0.1, max_iter=1)
    clipper = GradClipper(net, FixedNorm(0.5))
    for i, batch in enumerate(batches(4, poisoned=[0, 2])):

        def closure(batch: tuple[Tensor, Tensor] = batch) -> Tensor:
            loss = backward(net, optimizer, batch)
            clipper.clip()
            return loss

        kept = [p.detach().clone() for p in net.parameters()]
        optimizer.step(closure)
        moved = not same_bits([p.detach() for p in net.parameters()], kept)
        assert moved == bool(i % 2)
        assert all(p.isfinite().all() for p in net.parameters())


# What wraps an optimizer.


class Wrapper(torch.optim.Optimizer):
    """As Accelerate's: it is an optimizer by name, and runs no hooks."""

    def __init__(self, optimizer: Any, scaler: Any = None) -> None:
        self.optimizer = optimizer
        self.scaler = scaler

    param_groups = property(lambda self: self.optimizer.param_groups)

    def step(self, closure: Any = None) -> None:
        (self.scaler or SimpleNamespace(step=lambda optimizer: optimizer.step(closure))).step(self.optimizer)


class Proxy:
    """As Fabric's: it is none."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer

    def step(self) -> None:
        self.optimizer.step()


def disguised(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """As Lightning's: of the class of the optimizer too, and with its attributes."""
    kind = type("Disguised", (Wrapper, type(optimizer)), {})
    found = kind.__new__(kind)
    found.__dict__.update({key: value for key, value in vars(optimizer).items() if key != "param_groups"})
    found.optimizer, found.scaler = optimizer, None
    return found


def swapped(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """As in detectron2: another class, whose step goes on with that of the first."""

    class Swapped(type(optimizer)):
        def step(self, closure: Any = None) -> Any:
            return super(type(self), self).step(closure)

    optimizer.__class__ = Swapped
    return optimizer


@pytest.mark.parametrize("wrap", [Wrapper, Proxy, disguised, swapped, lambda x: Proxy(Wrapper(x))])
def test_what_wraps_an_optimizer_is_looked_through(wrap: Any) -> None:
    """Every step is clipped, and the wrapper detaches too."""
    net = network()
    optimizer = wrap(torch.optim.SGD(net.parameters(), lr=0.1))
    clipper = GradClipper(net, FixedNorm(0.5)).attach(optimizer)
    with pytest.raises(ValueError, match="must be attached once"):
        clipper.attach(optimizer)
    for step, batch in enumerate(batches(3), 1):
        net.zero_grad()
        loss_of(net, batch).backward()
        optimizer.step()
        assert clipper.last is not None and clipper.last.step == step
        assert norm_of(net) == pytest.approx(0.5, rel=1e-5)
    clipper.detach(optimizer)


def test_a_wrapper_brings_its_scaler() -> None:
    """Gradients are unscaled before they are clipped."""
    net = network()
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    optimizer = Wrapper(torch.optim.SGD(net.parameters(), lr=0.1), scaler)
    clipper = GradClipper(net, FixedNorm(0.5)).attach(optimizer)
    (batch,) = batches(1)
    scaler.scale(loss_of(net, batch)).backward()
    expected = norm_of(net) / 64.0
    optimizer.step()
    assert clipper.last is not None and clipper.last.total_norm == pytest.approx(expected, rel=1e-6)


class SAM(torch.optim.Optimizer):
    """Sharpness-aware minimisation (Foret et al., 2021): two steps, the second by an optimizer inside."""

    def __init__(self, parameters: Any, base: Any, rho: float = 0.05, **options: Any) -> None:
        super().__init__(parameters, {"rho": rho, **options})
        self.base_optimizer = base(self.param_groups, **options)
        self.param_groups = self.base_optimizer.param_groups

    @torch.no_grad()
    def first_step(self) -> None:
        norm = torch.stack([p.grad.norm() for group in self.param_groups for p in group["params"]]).norm()
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["old"] = p.clone()
                p.add_(p.grad * group["rho"] / norm)

    @torch.no_grad()
    def second_step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                p.copy_(self.state[p]["old"])
        self.base_optimizer.step()


def test_the_second_step_of_two_is_clipped() -> None:
    """The first only looks around."""
    net = network()
    optimizer = SAM(net.parameters(), torch.optim.SGD, lr=0.1)
    clipper = GradClipper(net, FixedNorm(0.5)).attach(optimizer)
    for step, batch in enumerate(batches(3), 1):
        net.zero_grad()
        loss_of(net, batch).backward()
        optimizer.first_step()
        net.zero_grad()
        loss_of(net, batch).backward()
        optimizer.second_step()
        assert clipper.last is not None and clipper.last.step == step
        assert norm_of(net) == pytest.approx(0.5, rel=1e-5)


def test_parameters_that_were_replaced_are_an_error() -> None:
    """As where a model is sharded after the clipper was attached: its own have no gradient any more."""
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    GradClipper(net, FixedNorm(0.5)).attach(optimizer)
    (batch,) = batches(1)
    optimizer.step()  # nothing to clip yet
    other = network()
    optimizer.param_groups[0]["params"][:] = list(other.parameters())
    loss_of(other, batch).backward()
    with pytest.raises(RuntimeError, match="found no gradient of its own .* SGD updates others by now, .* after that"):
        optimizer.step()


# Parameters that come later.


@pytest.mark.parametrize("policy", [FixedNorm(0.05), AdaGC(0.05, warmup=2), by_group(FixedNorm(0.05))], ids=repr)
def test_parameters_that_an_optimizer_gets_later_are_clipped(policy: Any) -> None:
    """As those of a layer that is unfrozen; what was learned of the others stays."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(net[2].parameters(), lr=0.01)
    clipper = GradClipper(optimizer, policy).attach(optimizer)

    def step() -> None:
        net.zero_grad()
        net(torch.randn(16, 4)).square().mean().backward()
        optimizer.step()

    for _ in range(3):
        step()
    before = clipper.state_dict()
    optimizer.add_param_group({"params": list(net[0].parameters())})
    step()
    assert clipper.last is not None and clipper.last.step == 4
    assert len(clipper.state_dict()["parameters"]) == 4
    assert set(before["parameters"]) < set(clipper.state_dict()["parameters"])
    for p in net.parameters():
        assert p.grad is not None and p.grad.norm() <= 0.0501
    step()


@pytest.mark.parametrize("attached", [True, False], ids=["attached", "by hand"])
@pytest.mark.parametrize("rows", [8, 11], ids=["of the same shape", "of another"])
@pytest.mark.parametrize("policy", [FixedNorm(0.05), AdaGC(0.05, warmup=2), AGC(0.01)], ids=repr)
def test_parameters_that_an_optimizer_gets_in_place_of_others_are_clipped(
    policy: Any, rows: int, attached: bool
) -> None:
    """As those of Gaussians that are split: one of them or all, and what was learned by their names stays."""
    owners = [nn.Parameter(torch.full((8, 3), i + 1.0)) for i in range(3)]
    optimizer = torch.optim.Adam([{"params": [p]} for p in owners], lr=0.0)
    clipper = GradClipper(optimizer, policy)
    if attached:
        clipper.attach(optimizer)
    for places in ((), (1,), (), (0, 1, 2)):
        for i in places:
            owners[i] = optimizer.param_groups[i]["params"][0] = nn.Parameter(torch.full((rows, 3), i + 1.0))
        for p in owners:
            p.grad = torch.ones_like(p)
        fresh = GradClipper(optimizer, policy)
        fresh.load_state_dict(clipper.state_dict())
        if not attached:
            clipper.clip()
        optimizer.step()
        assert clipper.last is not None and clipper.last.clipped
        left = [p.grad for p in owners]
        for p in owners:
            p.grad = torch.ones_like(p)
        fresh.clip()
        torch.testing.assert_close(left, [p.grad for p in owners], rtol=0.0, atol=0.0)


def test_what_was_learned_outlives_more_parameters() -> None:
    """The means of those that were there."""
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(net[2].parameters(), lr=0.0)
    clipper = GradClipper(optimizer, AdaGC(100.0, warmup=1)).attach(optimizer)
    for group in (None, {"params": list(net[0].parameters())}):
        if group is not None:
            known = clipper.state_dict()["stages"][0]["state"]
            optimizer.add_param_group(group)
        for p in net.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()
    state = clipper.state_dict()["stages"][0]["state"]
    assert any(isinstance(value, dict) for value in known.values())
    for key, value in known.items():
        if isinstance(value, dict):
            assert {name: state[key][name] for name in value} == pytest.approx(value, rel=0.05)
        assert isinstance(value, dict) or state[key] == value  # the steps of the warm-up


def test_a_history_of_one_parameter_grows() -> None:
    """To one of two."""
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([a], lr=0.0)
    clipper = GradClipper(optimizer, AutoClip(10.0, scope="parameter")).attach(optimizer)
    for _ in range(3):
        a.grad = torch.ones(2)
        optimizer.step()
    optimizer.add_param_group({"params": [b]})
    a.grad, b.grad = torch.ones(2), torch.ones(3)
    optimizer.step()
    assert clipper.last is not None and clipper.last.step == 4
    (histories,) = [x for x in clipper.state_dict()["stages"][0]["state"].values() if isinstance(x, dict)]
    assert [len(history) for history in histories.values()] == [4, 1]


def lengths_in(packed: Any) -> list[int]:
    """How long the histories of a saved state are."""
    if isinstance(packed, list) and all(isinstance(x, float) for x in packed):
        return [len(packed)]
    inner = packed.values() if isinstance(packed, dict) else packed if isinstance(packed, list) else ()
    return [length for x in inner for length in lengths_in(x)]


EACH = AutoClip(10.0, scope="parameter")


@pytest.mark.parametrize("policy", [EACH, by_group(EACH), by_name({"*": EACH})], ids=["all", "by group", "by name"])
def test_histories_go_on_in_those_that_are_left_or_come(policy: Policy) -> None:
    """One of many, or many of one, in a part of the model too."""
    named = {name: nn.Parameter(torch.ones(2)) for name in "abc"}
    optimizer = torch.optim.SGD([{"params": [named["a"], named["b"]]}, {"params": [named["c"]]}], lr=0.0)
    clipper = GradClipper(optimizer, policy).attach(optimizer)

    def lengths() -> list[int]:
        for p in named.values():
            p.grad = torch.ones(2)
        optimizer.step()
        optimizer.step()
        return sorted(lengths_in(clipper.state_dict()["stages"][0]["state"]))

    assert lengths() == [2, 2, 2]
    del optimizer.param_groups[0]["params"][1], named["b"]
    assert lengths() == [4, 4]
    named["d"] = nn.Parameter(torch.ones(2))
    optimizer.param_groups[0]["params"].append(named["d"])
    assert lengths() == [2, 6, 6]
    del optimizer.param_groups[1], named["c"]
    assert lengths() == [4, 8]


def test_a_policy_that_cannot_grow_says_so_at_every_step() -> None:
    """And nothing is half done."""
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([a], lr=0.0)
    GradClipper(optimizer, by_group([FixedNorm(1.0)])).attach(optimizer)
    a.grad = torch.ones(2)
    optimizer.step()
    optimizer.add_param_group({"params": [b]})
    for _ in range(2):
        with pytest.raises(ValueError, match="one policy for each parameter group"):
            optimizer.step()


def test_detaching_after_parameters_have_come() -> None:
    """From all of several optimizers; and a state saved with all of them is taken before the next step."""
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
    optimizers = [torch.optim.SGD([a], lr=0.0), torch.optim.SGD([a], lr=0.0)]
    clipper = GradClipper(optimizers[0], AdaGC(1.0, warmup=1))
    for optimizer in optimizers:
        clipper.attach(optimizer)
    a.grad = torch.ones(2)
    optimizers[0].step()
    optimizers[0].add_param_group({"params": [b]})
    state = clipper.state_dict()
    assert len(state["parameters"]) == 2
    clipper.load_state_dict(state)
    b.grad = torch.ones(3)
    clipper.clip()
    clipper.detach()


def test_fewer_parameters_in_place_of_all() -> None:
    """Those that an optimizer has got for others are clipped, also where none of them is left."""
    named = {name: nn.Parameter(torch.ones(2)) for name in "abd"}
    optimizer = torch.optim.SGD([named["a"], named["b"]], lr=0.0)
    clipper = GradClipper(optimizer, FixedNorm(0.1)).attach(optimizer)
    for now in (["a", "b"], ["d"], ["d"]):
        optimizer.param_groups[0]["params"][:] = [named[name] for name in now]
        for name in now:
            named[name].grad = torch.ones(2)
        optimizer.step()
        left = [named[name].grad for name in now]
        assert float(torch.stack(left).norm()) == pytest.approx(0.1, rel=1e-4)  # type: ignore[arg-type]
    assert clipper.last is not None and clipper.last.step == 3


def test_who_was_made_from_no_optimizer_leaves_its_steps() -> None:
    """Once that has other parameters; and nobody is remembered who is gone."""
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([a], lr=0.1)
    first = GradClipper([("a", a)])
    a.grad = torch.full((2,), math.nan)
    first.clip()
    optimizer.step()
    optimizer.param_groups[0]["params"][:] = [b]
    second = GradClipper([("b", b)])
    b.grad = torch.ones(2)
    second.clip()
    optimizer.step()
    assert not torch.equal(b.detach(), torch.ones(2))
    for _ in range(20):
        second = GradClipper([("b", b)])
        b.grad = torch.ones(2)
        second.clip()
        optimizer.step()
    gc.collect()
    assert len(WATCHERS._hearers[optimizer].references) <= 2
