"""Two ranks in each engine: as torch's DDP and its own clip."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from gradclip.testing import RankPool
from integrations.loops import STEPS, needed
from processes import forked

accelerate, *_ = needed("accelerate", "lightning.pytorch", "transformers")

import integrations.rank_workers as workers  # noqa: E402 -- where they are installed
from integrations.engines import ENGINES  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def pool() -> Iterator[RankPool]:
    with forked(RankPool(2)) as made:
        yield made


@pytest.fixture(scope="module")
def expected(pool: RankPool) -> workers.Found:
    first, second = pool.run(workers.train, None)
    assert first == second
    return first


def compare(found: list[Any], expected: workers.Found) -> None:
    first, second = found
    assert first == second  # bit for bit
    norms, parameters = first
    assert len(norms) == STEPS
    assert norms == pytest.approx(expected[0], rel=1e-5)
    for p, q in zip(parameters, expected[1], strict=True):
        torch.testing.assert_close(torch.tensor(p), torch.tensor(q), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_copies(pool: RankPool, expected: workers.Found, engine: str) -> None:
    """The same norms and parameters on both ranks; the engine's own clip is off, and what is used is bounded."""
    compare(pool.run(workers.train, engine), expected)


@pytest.mark.parametrize("train", [workers.train_sharded_by_accelerate, workers.train_sharded_by_transformers])
def test_shards(pool: RankPool, expected: workers.Found, train: Callable[[], workers.Found]) -> None:
    """FSDP2 as Accelerate prepares it, and as a Trainer asks Accelerate to."""
    if not hasattr(accelerate.FullyShardedDataParallelPlugin, "fsdp_version"):
        pytest.skip(f"Accelerate {accelerate.__version__} has no FSDP2")
    compare(pool.run(train), expected)
