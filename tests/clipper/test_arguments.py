"""What is refused, before anything is done."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from clipper.training import OPTIMIZERS, batches, gradients, loss_of, network, norm_of, same_bits, train
from gradclip import GradClipper, MisuseWarning
from gradclip.policies import FixedNorm, by_group


class Unhooked(torch.optim.Optimizer):
    """A wrapper that never initialises itself as an optimizer: its step runs no hooks."""

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        self.inner = inner
        self.param_groups = inner.param_groups
        self._optimizer_step_pre_hooks = {}

    def step(self, closure: Any = None) -> Any:
        return self.inner.step(closure)


class Fused(torch.optim.SGD):
    """As LOMO, which takes each gradient as it comes."""

    def fused_backward(self, loss: torch.Tensor, lr: float) -> None:
        """Update parameters."""


def test_what_a_clipper_cannot_be_attached_to() -> None:
    """The error says what to do, and no hook is left behind."""
    net = network()
    optimizer = OPTIMIZERS["SGD"](net.parameters())
    clipper = GradClipper(net)
    with pytest.raises(
        TypeError, match=r"attach\(optimizer=...\)` must be a torch optimizer, got Linear\. Pass .* `clip\(\)`"
    ):
        clipper.attach(net[0])
    with pytest.raises(
        TypeError, match="must evaluate its closure once a step, got LBFGS, .* Call `clip\\(\\)` in the"
    ):
        clipper.attach(torch.optim.LBFGS(net.parameters()))
    with pytest.raises(TypeError, match=r"must update .* in its `step`, got Fused, which does so in `backward`"):
        clipper.attach(Fused(net.parameters()))
    with pytest.raises(
        TypeError, match=r"whose `step` runs hooks, got Unhooked, .* Pass the optimizer that it wraps\."
    ):
        clipper.attach(Unhooked(optimizer))
    with pytest.raises(TypeError, match=r"attach\(scaler=...\)` must be a torch.amp.GradScaler, got float\.$"):
        clipper.attach(optimizer, scaler=1024.0)
    with pytest.raises(TypeError, match=r"must be a torch.amp.GradScaler, got SGD\. Attach one optimizer at a time"):
        clipper.attach(optimizer, optimizer)
    with pytest.raises(TypeError, match=r"must be a torch optimizer, got list\. Attach one optimizer at a time"):
        clipper.attach([optimizer])
    with pytest.raises(ValueError, match=r"must update parameters of the clipper, got SGD of none of them\. Make"):
        clipper.attach(OPTIMIZERS["SGD"](network().parameters()))
    with pytest.raises(ValueError, match="an optimizer that the clipper is attached to, got SGD that it is not"):
        clipper.detach(optimizer)
    assert not optimizer._optimizer_step_pre_hooks
    clipper.attach(optimizer)
    with pytest.raises(ValueError, match=r"must be attached once, got an optimizer that is\. Call `detach` first"):
        clipper.attach(optimizer)
    assert len(optimizer._optimizer_step_pre_hooks) == 1


def test_two_clippers_of_the_same_parameters_on_one_optimizer() -> None:
    """As a cell of a notebook makes them that is run twice: both clip, and it is said."""
    net = network()
    optimizer = OPTIMIZERS["SGD"](net.parameters())
    GradClipper(net).attach(optimizer)
    with pytest.warns(MisuseWarning, match=r"Two clippers of the same parameters .*policies\.chain\(") as caught:
        GradClipper(net, FixedNorm(0.5)).attach(optimizer)
    assert len(caught) == 1 and caught[0].filename == __file__
    train(net, optimizer, 0, 1)
    assert norm_of(net) == pytest.approx(0.5, rel=1e-5)


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"policy": 1.0}, TypeError, r"`GradClipper\(\)` must be given policies, got 1.0 \(float\)"),
    ({"policy": FixedNorm}, TypeError, r"Write `FixedNorm\(\.\.\.\)`"),
    (
        {"nonfinite": "keep"},
        ValueError,
        r"\(nonfinite=...\)` must be one of 'skip', .*, got 'keep'\. .* is 'skip' here",
    ),
    ({"nonfinite": [1.0]}, ValueError, r"must be one of 'skip', .*, got \[1.0\]"),
    ({"policy": True}, TypeError, r"got True \(bool\)\. Write one of `gradclip.policies`"),
    ({"policy": math.inf}, TypeError, r"got inf \(float\)\. Write one of `gradclip.policies`"),
    ({"policy": [FixedNorm(1.0)]}, TypeError, r"got .*list.*\. Write `chain\(\.\.\.\)` with them"),
    ({"max_consecutive_skips": -1}, ValueError, r"must be an integer and >= 0, got -1. For no limit, pass `math.inf`"),
    ({"max_consecutive_skips": 1.5}, ValueError, "must be an integer and >= 0, got 1.5"),
    ({"max_consecutive_skips": math.nan}, ValueError, "must be an integer and >= 0, got nan"),
    ({"max_consecutive_skips": True}, TypeError, r"\(max_consecutive_skips=...\)` must be a number, got True"),
    ({"max_consecutive_skips": None}, TypeError, r"must be a number, got None .* For no limit, pass `math.inf`"),
    ({"norms_every": 0.5}, ValueError, r"\(norms_every=...\)` must be an integer and >= 0, got 0.5"),
    ({"norms_every": math.inf}, ValueError, r"\(norms_every=...\)` must be an integer and >= 0, got inf"),
    ({"sinks": print}, TypeError, r"\(sinks=...\)` must be a list of callables, got <built-in .* Pass `\[sink\]`"),
    ({"sinks": [print, 3]}, TypeError, r"must hold callables that take a record, got 3 at sinks\[1\]\.$"),
    (
        {"sinks": "a.jsonl"},
        TypeError,
        r"must be a list of callables, got 'a.jsonl'\. Pass `\[JSONLines\('a.jsonl'\)\]`",
    ),
    ({"sinks": ["a.jsonl"]}, TypeError, r"got 'a.jsonl' at sinks\[0\]\. Pass `JSONLines\('a.jsonl'\)`"),
    ({"policy": network()}, TypeError, r"must be given policies, got a Sequential\. Write one of"),
    ({"ignored": 3}, TypeError, r"\(ignored=...\)` must be a list of patterns of names, got 3"),
    ({"counted_only": [3]}, TypeError, r"\(counted_only=...\)` must be a list of patterns of names, got \[3\]"),
    ({"ignored": ["nothing.*"]}, ValueError, r"match a parameter, got 'nothing.\*', .* The names are 0.weight"),
    ({"ignored": "0.*", "counted_only": "0.*"}, ValueError, r"got '0.\*', which matches none"),
    ({"ignored": "*"}, ValueError, r"`GradClipper\(ignored=...\)` must leave a parameter to clip, got \['\*'\]"),
    ({"policy": by_group(FixedNorm(1.0))}, ValueError, r"must know the parameter groups\. Make the clipper from them"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD, ids=[str(list(case[0].items())) for case in BAD])
def test_wrong_arguments(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    """The error names the argument, the value and the way out."""
    with pytest.raises(error, match=message):
        GradClipper(network(), **arguments)


def test_wrong_parameters() -> None:
    """What would silently clip nothing is refused."""
    net = network()
    exhausted = net.parameters()
    list(exhausted)
    with pytest.raises(TypeError, match="must be a Tensor, an iterable of Tensors .* got int"):
        GradClipper(3)
    with pytest.raises(TypeError, match=r"must hold Tensors, got int at parameters\[1\]"):
        GradClipper([next(net.parameters()), 3])
    with pytest.raises(TypeError, match="must hold parameters, got tensors that neither have nor can get a gradient"):
        GradClipper([torch.ones(2), torch.ones(3)])
    with pytest.raises(ValueError, match="must name every parameter differently, got 'a' twice"):
        GradClipper([("a", nn.Parameter(torch.ones(1))), ("a", nn.Parameter(torch.ones(1)))])
    with pytest.raises(ValueError, match="must hold at least one parameter, got list without any"):
        GradClipper([])
    with pytest.warns(UserWarning, match="empty generator"), pytest.raises(ValueError, match="walked once"):
        GradClipper(exhausted)


def test_a_loss_that_is_no_number() -> None:
    """It is refused before a gradient is touched."""
    net = network()
    loss_of(net, batches(1)[0]).backward()
    found = [x.clone() for x in gradients(net) if x is not None]
    clipper = GradClipper(net, FixedNorm(0.5))
    for loss, error in ((torch.ones(2), ValueError), ("low", TypeError)):
        with pytest.raises(error, match=r"GradClipper.clip\(loss=...\)` must"):
            clipper.clip(loss=loss)
    assert same_bits(gradients(net), found) and clipper.last is None
