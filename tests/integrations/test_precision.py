"""bfloat16, and float16 with a scaler, in each engine: as a plain loop by torch alone."""

import os
from collections.abc import Iterator
from unittest.mock import patch

import pytest
import torch
from torch.amp import GradScaler

from gradclip.records import Memory
from gradclip.testing import assert_clipped
from integrations.loops import MOMENTUM, RATE, STEPS, needed, network, same

accelerate, *_ = needed("accelerate", "lightning.pytorch", "transformers")

from integrations.engines import BOUND, ENGINES, by_torch, nobody_else_clips  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def _state_of_its_own() -> Iterator[None]:
    """Accelerate keeps a precision for the process, and older transformers say it in the environment."""
    with patch.dict(os.environ):
        yield
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("engine", ENGINES)
def test_it_trains_as_a_plain_loop(engine: str, dtype: torch.dtype) -> None:
    """Unscaled once, clipped once, by nobody else; steps that overflow do not happen, and the scaler adapts."""
    found = []
    for name in (engine, None):
        net = network()
        optimizer = torch.optim.SGD(net.parameters(), lr=RATE, momentum=MOMENTUM)
        scaler = GradScaler("cpu", init_scale=2.0**20, growth_interval=5) if dtype == torch.float16 else None
        records = Memory()
        with assert_clipped(optimizer, BOUND):
            if name is None:
                norms = by_torch(net, optimizer, dtype, scaler)
            else:
                with nobody_else_clips():
                    ENGINES[name](net, optimizer, dtype, scaler, [records])
                norms = [record.total_norm for record in records.records]
        found.append((net, [x for x in norms if x < float("inf")], scaler))
    (net, norms, scaler), (expected, known, other) = found
    same(net, expected)
    assert norms == pytest.approx(known, rel=1e-5)
    assert (scaler is None) == (len(known) == STEPS)
    if scaler is not None and other is not None:
        assert 0 < len(known) < STEPS
        assert scaler.state_dict() == other.state_dict()
