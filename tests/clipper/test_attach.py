"""A clipper and the optimizer that it is attached to."""

import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradclip
from clipper.training import OPTIMIZERS, backward, batches, gradients, loss_of, network, norm_of, same_bits, train
from gradclip import GradClipper, MisuseWarning
from gradclip.policies import AGC, FixedNorm, ZClip, by_group
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
