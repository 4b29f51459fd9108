"""Parameters that have another shape than when the clipper was made, as after `p.data = ...`: bounds follow."""

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradclip import GradClipper
from gradclip.policies import AGC, AdaGC, BlockRMS, Decision, Layout, Norms, Policy, ZClip, by_name, chain

SHAPES = [((6, 5), (3, 2)), ((2, 5), (3, 2)), ((4, 9), (3, 2)), ((20,), (3, 2)), ((), (3, 2)), ((3, 5), (4, 2))]
"""Of two parameters that had (4, 5) and (3, 2); the last have as many rows as before, if together."""


def parameters() -> list[nn.Parameter]:
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(4, 5)), nn.Parameter(torch.randn(3, 2))]


def fill(owners: list[nn.Parameter]) -> None:
    for i, p in enumerate(owners):
        p.grad = torch.full_like(p, 3.0 + i)


def reshape(owners: list[nn.Parameter], shapes: Any) -> None:
    for p, shape in zip(owners, shapes, strict=True):
        p.grad = None
        p.data = 2.0 * torch.randn(shape)


def bounded(p: Tensor, policy: Policy) -> Tensor:
    """Return by the definition, in float64, what is left of a gradient."""
    g = p.grad.double()  # type: ignore[union-attr]
    if isinstance(policy, BlockRMS):
        return g / max(1.0, float(g.square().mean().sqrt()) / policy.threshold)
    rows, weights = (x.reshape(len(x), -1) if x.ndim > 1 else x.reshape(1, -1) for x in (g, p.detach().double()))
    bound = 0.01 * weights.norm(dim=1).clamp(min=1e-3)
    return (rows * (bound / rows.norm(dim=1)).clamp(max=1.0)[:, None]).reshape(g.shape)


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("policy", [AGC(0.01), BlockRMS(0.1)], ids=repr)
def test_bounds_are_those_of_the_shapes_now(policy: Policy, shapes: Any) -> None:
    """Not those of the first: all elements are bounded by how many there are, and rows by their own weights."""
    owners = parameters()
    clipper = GradClipper(owners, policy)
    fill(owners)
    clipper.clip()
    reshape(owners, shapes)
    fill(owners)
    expected = [bounded(p, policy) for p in owners]
    clipper.clip()
    torch.testing.assert_close([p.grad.double() for p in owners], expected, rtol=1e-6, atol=0.0)  # type: ignore[union-attr]


@pytest.mark.parametrize("policy", [chain(AGC(0.01), ZClip(1.0)), by_name({"*": AGC(0.01)}), AGC(0.01, per="total")])
def test_parts_follow_too(policy: Policy) -> None:
    """What the parts of a policy bound is what a clipper that is made by now bounds."""
    owners = parameters()
    clipper = GradClipper(owners, policy)
    fill(owners)
    clipper.clip()
    reshape(owners, SHAPES[0])
    fresh = GradClipper(owners, policy)
    left = []
    for one in (clipper, fresh):
        fill(owners)
        one.clip()
        left.append([p.grad for p in owners])
    torch.testing.assert_close(*left, rtol=0.0, atol=0.0)


ADAGC = AdaGC(1.0, warmup=2)


@pytest.mark.parametrize("policy", [ADAGC, by_name({"parameters[0]": ADAGC}, ZClip(1.0, warmup=2))], ids=repr)
def test_what_was_learned_of_parameters_stays(policy: Policy) -> None:
    """It is of norms, whatever the shape; of some of the parameters too."""
    runs = [(owners, GradClipper(owners, policy)) for owners in (parameters(), parameters())]
    for owners, clipper in runs:
        for _ in range(5):
            fill(owners)
            clipper.clip()
    reshape(runs[0][0], [(5, 4), (2, 3)])  # whose gradients have the same norms
    for owners, clipper in runs:
        fill(owners)
        clipper.clip()
    assert runs[0][1].state_dict()["stages"] == runs[1][1].state_dict()["stages"]


@dataclass(frozen=True)
class CountsUnits(Policy):
    """Counts how often each unit had a gradient."""

    scope = "unit"

    def init(self, layout: Layout) -> tuple[Tensor]:
        return (torch.zeros(sum(layout.units), dtype=torch.float64, device=layout.device),)

    def decide(self, norms: Norms, state: tuple[Tensor]) -> tuple[Decision, tuple[Tensor]]:
        ones = torch.ones_like(norms.of_units())
        return Decision(ones, ones, "unit"), (state[0] + 1.0,)


def counted() -> tuple[list[nn.Parameter], torch.optim.Optimizer, GradClipper]:
    """Parameters, their optimizer and the clipper made from it, after three steps."""
    owners = parameters()
    optimizer = torch.optim.SGD(owners, lr=0.1)
    clipper = GradClipper(optimizer, CountsUnits())
    for _ in range(3):
        fill(owners)
        clipper.clip()
        optimizer.step()
    return owners, optimizer, clipper


@pytest.mark.parametrize("rows", [4, 6])
def test_what_was_learned_of_units_goes_on_in_as_many(rows: int) -> None:
    """Of a parameter in place of another; in more or fewer it begins anew."""
    owners, optimizer, clipper = counted()
    owners[0] = optimizer.param_groups[0]["params"][0] = nn.Parameter(torch.ones(rows, 5))
    fill(owners)
    clipper.clip()
    (learned,) = clipper.state_dict()["stages"][0]["state"].values()
    assert list(learned.values()) == [[4.0] * 4 if rows == 4 else [1.0] * rows, [4.0] * 3]


def test_what_was_learned_of_units_begins_anew_in_others() -> None:
    """It goes on in the parameters that have as many, also where the optimizer has got another parameter meanwhile."""
    owners, optimizer, clipper = counted()
    reshape(owners, SHAPES[0])
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2, 2))]})
    fill(owners)
    clipper.clip()
    (learned,) = clipper.state_dict()["stages"][0]["state"].values()
    assert list(learned.values()) == [[1.0] * 6, [4.0] * 3, [1.0] * 2]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ([(4,), (3,)], [(2, 2), (3,)], [[1.0, 1.0], [4.0]]),
        ([(2, 2), (3,)], [(4,), (3,)], [1.0, 4.0]),
        ([(2, 2), (3,)], [(1, 4), (3,)], [1.0, 4.0]),
        ([(4,)], [(2, 2)], [[1.0, 1.0]]),
        ([(2, 2)], [(4,)], [1.0]),
        ([(2, 2), (3,)], [(0, 2), (3,)], [[], [4.0]]),
    ],
    ids=str,
)
@pytest.mark.parametrize("policy", [CountsUnits(), by_name({"*": CountsUnits()})])
def test_units_that_become_one_or_more(before: Any, after: Any, expected: Any, policy: Policy) -> None:
    """A parameter of one unit has a number, where others have one as well."""
    owners = [nn.Parameter(torch.ones(shape)) for shape in before]
    clipper = GradClipper(owners, policy)
    for _ in range(3):
        fill(owners)
        clipper.clip()
    reshape(owners, after)
    fill(owners)
    clipper.clip()
    learned: Any = clipper.state_dict()["stages"][0]["state"]
    learned = learned.get("*", learned)
    assert list(learned["0"].values()) == expected


@dataclass(frozen=True)
class Last(Policy):
    """Knows the last norm of each parameter: NaN where there was none."""

    scope = "parameter"

    def init(self, layout: Layout) -> tuple[Tensor]:
        return (torch.full((len(layout.names),), math.nan, dtype=torch.float64, device=layout.device),)

    def decide(self, norms: Norms, state: tuple[Tensor]) -> tuple[Decision, tuple[Tensor]]:
        return Decision(), (norms.of_parameters(),)


def test_what_is_not_known_goes_on_too() -> None:
    owners = parameters()
    clipper = GradClipper(owners, Last())
    for shapes in (((4, 5), (3, 2)), ((2, 2), (3, 2))):
        reshape(owners, shapes)
        owners[1].grad = torch.ones(3, 2)
        clipper.clip()
    first, second = clipper.state_dict()["stages"][0]["state"]["0"].values()
    assert math.isnan(first) and second == pytest.approx(6.0**0.5)


def test_a_shape_that_a_policy_has_no_units_of_is_refused() -> None:
    """In words, with the parameter, and with nothing changed."""
    owners = [nn.Parameter(torch.ones(2, 3, 4))]
    clipper = GradClipper(owners, AGC(0.01, axis=2))
    reshape(owners, [(2, 3)])
    fill(owners)
    kept = [p.grad.clone() for p in owners]  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=r"must take norms over a dimension .* for shape"):
        clipper.clip()
    assert all(map(torch.equal, kept, [p.grad for p in owners]))  # type: ignore[arg-type]
