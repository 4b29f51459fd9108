"""Steps that `torch.compile` compiles: a clipper stays outside of the graphs, and does there what it does elsewhere."""

from collections.abc import Callable
from typing import Any, TypeAlias

import pytest
import torch
from torch import Tensor, nn

import gradclip
from clipper.training import Batch, batches, everything, loss_of, network, same_bits
from gradclip import GradClipper
from gradclip.policies import ZClip

pytestmark = pytest.mark.filterwarnings("ignore", "error::gradclip.MisuseWarning")  # compilers warn of much

POLICY = ZClip(1.0, warmup=2)

Compile: TypeAlias = Callable[[Callable[..., Any]], Callable[..., Any]]


def by_hand(net: nn.Module, optimizer: torch.optim.Optimizer, compiled: Compile) -> None:
    """A whole step is compiled, the clip among it."""
    clipper = GradClipper(net, POLICY)

    def step(batch: Batch) -> None:
        optimizer.zero_grad()
        loss_of(net, batch).backward()
        clipper.clip()
        optimizer.step()

    step = compiled(step)
    for batch in batches(6, poisoned=[3]):
        step(batch)


def stepped(net: nn.Module, optimizer: torch.optim.Optimizer, compiled: Compile) -> None:
    step = compiled(optimizer.step)
    for batch in batches(6, poisoned=[3]):
        optimizer.zero_grad()
        loss_of(net, batch).backward()
        step()


def attached(net: nn.Module, optimizer: torch.optim.Optimizer, compiled: Compile) -> None:
    """The step of the optimizer is compiled."""
    GradClipper(net, POLICY).attach(optimizer)
    stepped(net, optimizer, compiled)


def patched(net: nn.Module, optimizer: torch.optim.Optimizer, compiled: Compile) -> None:
    """So it is in a script that knows of no clipper."""
    with gradclip.patch(POLICY):
        stepped(net, optimizer, compiled)


def closure(net: nn.Module, optimizer: torch.optim.Optimizer, compiled: Compile) -> None:
    """The gradients are made within it."""
    GradClipper(net, POLICY).attach(optimizer)
    step = compiled(optimizer.step)
    for batch in batches(6, poisoned=[3]):

        def make(batch: Batch = batch) -> Tensor:
            optimizer.zero_grad()
            loss = loss_of(net, batch)
            loss.backward()
            return loss

        step(make)


@pytest.mark.parametrize("train", [by_hand, attached, patched, closure])
def test_a_compiled_step_does_what_a_step_does(train: Callable[..., None]) -> None:
    """Bit for bit, a skipped step too; and no graph has any of the clip: it would be made anew for every number."""
    targets: list[str] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        del inputs
        targets.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    torch.compiler.reset()
    nets, trained = [], []
    for compiled in (lambda function: function, lambda function: torch.compile(function, backend=backend)):
        net = network()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, foreach=False)
        train(net, optimizer, compiled)
        nets.append(net)
        trained.append(everything(net, optimizer))
    if torch.__version__ < (2, 7):  # whose compiled SGD rounds otherwise, without a clipper too
        for p, q in zip(*(net.parameters() for net in nets), strict=True):
            torch.testing.assert_close(p, q)
    else:
        assert same_bits(*trained)
    assert targets and not any("gradclip" in target for target in targets)
