"""What a user writes, to be checked by mypy and pyright in their strict modes, outside of the checkout."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import gradclip
from gradclip import ClipRecord, ClipResult, GradClipper, MisuseWarning, Status
from gradclip.analysis import advise, replay
from gradclip.distributed import Ownership, declare
from gradclip.numbers import bring_down
from gradclip.policies import AGC, Decision, FixedNorm, Layout, Norms, Policy, ZClip, by_name, chain, warmup
from gradclip.records import JSONLines, Memory
from gradclip.testing import assert_clipped, assert_same_gradients, capture_records

model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

# Every form of parameters.
norm: Tensor = gradclip.clip_grad_norm_(model.parameters(), max_norm=1.0)
norm = gradclip.clip_grad_norm_(model, 1.0, 2, nonfinite="raise")
norm = gradclip.clip_grad_norm_(optimizer, torch.tensor(1.0), math.inf)
norm = gradclip.clip_grad_norm_(list(model.parameters()), 1)
norm = gradclip.clip_grad_norm_(model.named_parameters(), 1.0)
norm = gradclip.clip_grad_norm_([model[0], model[2]], 1.0)
norm = gradclip.clip_grad_norm_([model[0].parameters(), model[2].parameters()], 1.0)
norm = gradclip.clip_grad_norm_(optimizer.param_groups, 1.0)
norm = gradclip.clip_grad_norm_(model[0].weight, 1.0)
gradclip.clip_grad_value_(model, 0.5)
gradclip.clip_grads_with_norm_(model, 1.0, norm)
total: Tensor = gradclip.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
coefficient: Tensor = gradclip.clip_coefficient(total, 1.0)
norms: dict[str, Tensor] = gradclip.get_norms(model)


@dataclass(frozen=True)
class Half(Policy):
    """Half of the norm."""

    max_norm: float

    def init(self, layout: Layout) -> tuple[float]:
        """Begin."""
        return (0.0,)

    def decide(self, norms: Norms, state: tuple[float]) -> tuple[Decision, tuple[float]]:
        """Decide."""
        return Decision(bring_down(norms.total, self.max_norm, 1e-6), self.max_norm), (state[0] + 1.0,)


def sink(record: ClipRecord) -> None:
    """Take a record."""
    numbers: dict[str, float] = record.metrics()
    numbers["largest"] = record.worst[0][1] if record.worst else record.total_norm


policy: Policy = chain(warmup(10, FixedNorm(1.0)), ZClip(math.inf), Half(1.0))
policy = by_name({"0.*": AGC(0.01, axis=(0,))}, default=FixedNorm(1.0))
memory = Memory(maxlen=3)
clipper = GradClipper(model, policy, nonfinite="skip", sinks=[sink, memory, JSONLines("run.jsonl")], norms_every=2)
with clipper.attach(optimizer) as attached, assert_clipped(optimizer, 1.0), capture_records() as records:
    optimizer.step()  # pyright: ignore[reportUnknownMemberType] -- torch says no more of it
    result: ClipResult | None = attached.last
    if result is not None and result.status is Status.CLIPPED:
        before: float = result.total_norm
        worst: list[tuple[str, float]] = result.worst(3)
state: dict[str, Any] = clipper.state_dict()
clipper.load_state_dict(state)
declare(model, Ownership(counted=False))
assert_same_gradients(model)
kind: type[Warning] = MisuseWarning
advice = advise("run.jsonl")
share: float = replay(ZClip(1.0), [1.0, 2.0]).share_clipped


def parameters() -> Iterator[nn.Parameter]:
    """Yield some."""
    yield from model.parameters()


gradclip.clip_grad_norm_(parameters(), 1.0)

# What is wrong is seen: these comments are needed.
wrong: str = gradclip.clip_grad_norm_(model, 1.0)  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
gradclip.clip_grad_norm_(model, 1.0, nonfinite="skip")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
