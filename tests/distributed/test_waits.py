"""The host waits for no device with a mesh either, in functions and policies of every scope."""

from pathlib import Path

import pytest
from torch.utils import backend_registration

from policies.cases import CASES
from processes import printed


@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch has no devices whose backend is written in Python",
)
def test_meshes_whose_numbers_are_elsewhere() -> None:
    """In a process of its own, as it is one rank of four that there are not."""
    lines = printed(Path(__file__).with_name("meshes_elsewhere.py")).splitlines()
    tried = sum(not case.policy.skips for case in CASES.values())
    layouts = (
        *("shards", "shards beside plain ones", "shards of one of two meshes"),
        *("copies of shards", "copies beside plain ones"),
    )
    assert lines == [f"{layout}: {tried} policies" for layout in layouts]
