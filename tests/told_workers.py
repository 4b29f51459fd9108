"""What the ranks do in tests of who hears of an error: clip by a clipper that cannot on some ranks."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, distributed, nn
from torch.amp import GradScaler

from gradclip import GradClipper
from gradclip.distributed import Ownership, declare
from gradclip.policies import AGC, AdaGC, Decision, FixedNorm, FixedValue, Layout, Norms, Policy, chain
from layout_workers import local_of
from layouts import mesh_of, place


class Case(NamedTuple):
    """A clip that cannot be on some ranks.

    Attributes:
        parameter: What each rank has, with a gradient of ones.
        clipper: What clips it.
        call: Clips.
        mend: Takes away what is wrong.
    """

    parameter: Any
    clipper: GradClipper
    call: Callable[[], object]
    mend: Callable[[], object] = lambda: None


class Heard(NamedTuple):
    """What a rank raised, whether its gradient is as before, and the norm of the next clip."""

    error: str
    is_untouched: bool
    after: float


def hear(what: str) -> Heard:
    """Clip, then once more with all well."""
    case, error = CASES[what](), ""
    before = _dense(case.parameter.grad).clone()
    try:
        case.call()
    except Exception as caught:  # noqa: BLE001 -- which one it is, the test says
        error = f"{type(caught).__name__}: {caught}"
    is_untouched = torch.equal(_dense(case.parameter.grad), before)
    case.mend()
    return Heard(error, is_untouched, case.clipper.clip().total_norm)


def _dense(x: Any) -> Tensor:
    return x.to_dense() if x.is_sparse else local_of(x)


def _stage(shape: tuple[int, ...] = (2, 2)) -> nn.Parameter:
    """A parameter of this rank alone, as a stage of a pipeline has them."""
    parameter = nn.Parameter(torch.zeros(shape))
    parameter.grad = torch.ones(shape)
    declare([parameter], Ownership(disjoint=distributed.group.WORLD))
    return parameter


def _clipper(parameter: Any, policy: Policy, *, one_collective: bool = True, **arguments: Any) -> GradClipper:
    group = distributed.group.WORLD if one_collective else None
    return GradClipper([("w", parameter)], policy, group=group, **arguments)


def sparse_beside_units() -> Case:
    """Rows are bounded, and the stage of the second rank is an embedding with a sparse gradient."""
    parameter = _stage()
    dense = parameter.grad
    if distributed.get_rank() == 1:
        parameter.grad = torch.ones(2, 2).to_sparse()
    clipper = _clipper(parameter, AGC(1.0))
    return Case(parameter, clipper, clipper.clip, lambda: setattr(parameter, "grad", dense))


def pieces_beside_units() -> Case:
    """Rows are bounded, and one of two stages is made of plain pieces, which are of two sizes."""
    mesh, rank = mesh_of("dp tp"), distributed.get_rank()
    parameter = nn.Parameter(torch.zeros(1 if rank == 0 else 2, 2))
    parameter.grad = torch.ones_like(parameter)
    pieces = mesh["tp"].get_group() if rank < 2 else ()
    declare([parameter], Ownership(disjoint=mesh["dp"].get_group(), sharded=pieces))
    clipper = _clipper(parameter, AGC(1.0), one_collective=False)
    return Case(parameter, _clipper(parameter, FixedNorm(100.0), one_collective=False), clipper.clip)


def a_warning_that_is_an_error() -> Case:
    """The second rank has stepped already, and does not let warnings pass."""
    parameter = _stage()
    clipper, optimizer = _clipper(parameter, FixedNorm(1.0)), torch.optim.SGD([parameter], lr=0.1)

    def call() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore" if distributed.get_rank() == 0 else "error")
            if distributed.get_rank() == 1:
                optimizer.step()
            clipper.clip()

    return Case(parameter, clipper, call)


def a_scaler_of_half_precision() -> Case:
    """The stage of the second rank is of a dtype that a scaler does not unscale."""
    parameter = _stage()
    if distributed.get_rank() == 1:
        parameter.data = parameter.data.half()
        parameter.grad = torch.ones(2, 2, dtype=torch.float16)
    clipper, optimizer = _clipper(parameter, FixedNorm(100.0)), torch.optim.SGD([parameter], lr=0.1)
    scaler = GradScaler("cpu", init_scale=1.0)
    scaler.scale(torch.ones(()))
    clipper.attach(optimizer, scaler)

    def call() -> None:
        with clipper:
            optimizer.step()

    return Case(parameter, clipper, call)


@final
@dataclass(frozen=True)
class FailsOnTheSecond(Policy):
    """A rule that cannot decide on one rank."""

    @property
    def norm_type(self) -> float:
        return math.inf

    def init(self, layout: Layout) -> tuple[()]:
        return ()

    def decide(self, norms: Norms, state: tuple[()]) -> tuple[Decision, tuple[()]]:
        if distributed.get_rank() == 1:
            raise ArithmeticError("no decision")
        return Decision(0.5, 0.5), state


def a_rule_before_another() -> Case:
    """The first of two stages fails, and the second is measured anew."""
    parameter = _stage()
    clipper = _clipper(parameter, chain(FailsOnTheSecond(), AdaGC(100.0)))
    return Case(parameter, _clipper(parameter, FixedNorm(100.0)), clipper.clip)


def limits_of_sums() -> Case:
    """Elements are limited and then a norm, and of one of two stages they are yet to be summed."""
    mesh, rank = mesh_of("dp tp"), distributed.get_rank()
    words = ["P"] if rank < 2 else ["R"]
    parameter: Any = nn.Parameter(place([torch.zeros(2, 2)], ["R"], mesh["tp"]))
    parameter.grad = place([torch.ones(2, 2)] * 2, words, mesh["tp"])
    declare([parameter], Ownership(disjoint=mesh["dp"].get_group()))
    clipper = _clipper(parameter, chain(FixedValue(0.1), FixedNorm(1.0)), one_collective=False)
    return Case(parameter, _clipper(parameter, FixedNorm(100.0), one_collective=False), clipper.clip)


CASES: dict[str, Callable[[], Case]] = {
    "a sparse gradient beside units": sparse_beside_units,
    "pieces beside units": pieces_beside_units,
    "a warning that is an error": a_warning_that_is_an_error,
    "a scaler of half precision": a_scaler_of_half_precision,
    "a rule before another": a_rule_before_another,
    "limits of sums": limits_of_sums,
}
"""On 4 ranks; the norms of what is left differ."""
