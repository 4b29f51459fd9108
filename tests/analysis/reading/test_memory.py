"""A file of any size is read in little memory: measured in processes of their own, which may not have more."""

import json
from pathlib import Path

import pytest

from analysis.reading.files import record
from processes import run

MIB = 2**20
FILE = 64 * MIB
MOST = 48 * MIB
"""What reading may add to the memory of a process that has read a short file: some pieces, and the columns."""

SCRIPT = """
import os, resource, sys
from gradclip.analysis.reading import read_series

short, long, most = sys.argv[1], sys.argv[2], int(sys.argv[3])
for _ in range(3):
    read_series(short)  # what is imported, and the threads of polars
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with open("/proc/self/statm") as file:
    size = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
resource.setrlimit(resource.RLIMIT_AS, (size + 4 * most, size + 4 * most))
series = read_series(long)
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(len(series), int(series.steps[-1]), grown * 1024, len(series.each))
"""


def lines(form: str, steps: range) -> bytes:
    """Lines of some kilobytes of which little is kept, but for one in a hundred."""
    if form == "csv":
        return "".join(f"{step},0.5,{'x' * 5000}\n" for step in steps).encode()
    worst = [[f"transformer.h.{i}.mlp.c_fc.weight", 0.5] for i in range(100)]
    names = [f"transformer.h.{i}.mlp.c_fc.weight" for i in range(100)]
    entries = (
        record(step, 0.5, worst=worst, norms=dict.fromkeys(names, 0.25) if step % 100 == 0 else None) for step in steps
    )
    foreign = ({name: value for name, value in entry.items() if name != "policy"} for entry in entries)  # counted on
    return "".join(json.dumps(entry) + "\n" for entry in foreign).encode()


@pytest.mark.parametrize("form", ["jsonl", "csv"])
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the size of a process is read from /proc")
def test_memory_does_not_grow_with_the_text(tmp_path: Path, form: str) -> None:
    head = b"step,grad_norm,note\n" if form == "csv" else b""
    block = lines(form, range(1, 2001))
    (tmp_path / "short").write_bytes(head + block)
    count = FILE // len(block) + 1
    with (tmp_path / "long").open("wb") as file:
        file.write(head)
        for _ in range(count):
            file.write(block)
        file.write(lines(form, range(2001, 2003)))
    size = (tmp_path / "long").stat().st_size
    few = {"POLARS_MAX_THREADS": "2"}  # each thread has memory of its own
    done = run(SCRIPT, tmp_path / "short", tmp_path / "long", MOST, **few)
    (tmp_path / "long").unlink()  # pytest would keep it
    assert done.returncode == 0, done.stderr
    steps, last, grown, each = map(int, done.stdout.split())
    assert (steps, last) == (2000 * count + 2,) * 2  # a counter that begins again, each time after as many steps
    assert size > FILE
    assert grown < MOST
    assert each == (0 if form == "csv" else 20 * count)
