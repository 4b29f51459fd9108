"""The ranks that all tests of distributed norms share: a pool of each size, started when a test first needs it."""

from collections.abc import Callable, Iterator

import pytest
import torch.distributed

from gradclip.testing import RankPool
from processes import forked

if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
    collect_ignore_glob = ["test_*.py"]  # nothing here can even be imported


@pytest.fixture(scope="session")
def pool_of() -> Iterator[Callable[[int], RankPool]]:
    """A function that returns the pool of so many ranks: the same one for the whole session."""
    pools: dict[int, RankPool] = {}

    def of(size: int) -> RankPool:
        if size not in pools:
            pools[size] = forked(RankPool(size))
        return pools[size]

    yield of
    for pool in pools.values():
        pool.close()


@pytest.fixture
def pool(request: pytest.FixtureRequest, pool_of: Callable[[int], RankPool]) -> RankPool:
    """A pool of the size that a test is parametrised with: `pytest.mark.parametrize("pool", [2, 4], indirect=True)`."""
    return pool_of(request.param)
