"""The host waits for no device with a mesh either, in functions and policies of every scope."""

import os
import subprocess
import sys
from pathlib import Path

from policies.cases import CASES


def test_meshes_whose_numbers_are_elsewhere() -> None:
    """In a process of its own, as it is one rank of four that there are not."""
    script = Path(__file__).with_name("meshes_elsewhere.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    tried = sum(not case.policy.skips for case in CASES.values())
    layouts = ("shards", "shards beside plain ones", "shards of one of two meshes")
    assert done.stdout.splitlines() == [f"{layout}: {tried} policies" for layout in layouts]
