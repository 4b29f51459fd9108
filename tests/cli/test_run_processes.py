"""`gradclip run` reaches the processes that a script starts by `multiprocessing`."""

from pathlib import Path

import pytest

from cli.test_run import launched, records_in

RANKS = '''
"""Ranks that the script starts by itself, each of which learns which it is in its own process."""
import gc
import os
import sys

import torch
from torch import distributed, multiprocessing
from torch.nn.utils import clip_grad_norm_


def join(rank, norms):
    distributed.init_process_group("gloo", init_method=f"file://{os.path.abspath('meet')}", rank=rank, world_size=2)
    train(rank, norms)
    gc.collect()  # or with a model of DDP still there, torch may wait for itself, or abort: its parts hold each other
    distributed.destroy_process_group()


def train(rank, norms):
    torch.manual_seed(rank)
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for step in range(3):
        optimizer.zero_grad()
        model(torch.randn(8, 4)).square().mean().backward()
        if "clip" in sys.argv:
            clip_grad_norm_(model.parameters(), 0.125)
        optimizer.step()
        norms.put(torch.nn.utils.get_total_norm([p.grad for p in model.parameters()]).item())


if __name__ == "__main__":
    method = sys.argv[1]
    norms = multiprocessing.get_context(method).SimpleQueue()
    multiprocessing.start_processes(join, (norms,), nprocs=2, start_method=method)
    print(*(f"{norms.get():.4f}" for _ in range(6)))
'''

ALONE = '''
"""A script that trains, and whose processes train too, none of which is a rank; others do not train."""
import multiprocessing

import torch
from gradclip.records import sinks
from torch.utils.data import DataLoader


class Late:
    """Stands for records whose numbers are still on a device."""

    def flush(self):
        print("flushed", flush=True)


late = Late()


def train(steps):
    sinks._WAITING.add(late)
    p = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([p], lr=0.1)
    for _ in range(steps):
        p.grad = torch.tensor([3.0, 4.0])
        optimizer.step()


class Trainer(multiprocessing.get_context("forkserver").Process):
    def run(self):
        train(2)
        inner = multiprocessing.get_context("spawn").Process(target=train, args=(1,), name="inner")
        inner.start()
        inner.join()


if __name__ == "__main__":
    train(1)
    processes = [Trainer(name="outer"), multiprocessing.get_context("fork").Process(target=train, args=(3,))]
    for process in processes:
        process.start()
        process.join()
        assert process.exitcode == 0
    loader = DataLoader(torch.zeros(4), num_workers=1, multiprocessing_context="spawn")
    print(len(list(loader)))
'''


def test_ranks_that_a_script_starts(tmp_path: Path) -> None:
    """Each step leaves one record, by rank 0, with the norm that all ranks saw."""
    (tmp_path / "ranks.py").write_text(RANKS)
    done = launched("--record", "r.jsonl", "ranks.py", "fork", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = records_in(tmp_path / "r.jsonl")
    assert [(record["step"], record["group"]) for record in found] == [(1, None), (2, None), (3, None)]
    assert sorted(done.stdout.split()) == sorted(2 * [f"{record['total_norm']:.4f}" for record in found])


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_ranks_that_a_script_starts_clip_by_the_rule(method: str, tmp_path: Path) -> None:
    """All of them, by whatever name their function for that is called; one writes."""
    (tmp_path / "ranks.py").write_text(RANKS)
    done = launched("--record", "r.jsonl", "--max-norm", 0.25, "ranks.py", method, "clip", cwd=tmp_path)
    assert (done.returncode, done.stdout.split()) == (0, ["0.2500"] * 6), done.stderr
    assert [record["threshold"] for record in records_in(tmp_path / "r.jsonl")] == [0.25] * 3
    assert len(list(tmp_path.glob("*.jsonl"))) == 1


def test_processes_that_are_no_ranks_are_runs_of_their_own(tmp_path: Path) -> None:
    """By their names, those of processes of processes too; those that take no step leave nothing.

    However they end, nothing is lost that still waits.
    """
    (tmp_path / "alone.py").write_text(ALONE)
    done = launched("--record", "r.jsonl", "alone.py", cwd=tmp_path)
    flushed = ["flushed"]
    assert (done.returncode, done.stderr, done.stdout.split()) == (0, "", [*flushed * 3, "4", *flushed])
    found = [(record["group"], record["step"]) for record in records_in(tmp_path / "r.jsonl")]
    forked = "ForkProcess-2, parameters 2"  # where those of the first are known
    expected = [(None, 1), *(("outer", step) for step in (1, 2)), ("inner", 1)]
    assert found == [*expected, *((forked, step) for step in (1, 2, 3))]
