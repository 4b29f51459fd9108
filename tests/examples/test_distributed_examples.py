"""The distributed examples, and the code of the page about them: they have the norms of a single process."""

import ast
import importlib.util
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from processes import ranks

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "how-to" / "distributed.md"

TIMEOUT_S = 240

RUN_THE_PAGE = """
import json, re, sys
import torch
import torch.distributed as dist
import gradclip

clip_grad_norm_, norms, namespace = gradclip.clip_grad_norm_, [], {}

def recording(*arguments, **options):
    norms.append(clip_grad_norm_(*arguments, **options).item())

gradclip.clip_grad_norm_ = recording
with open(sys.argv[1], encoding="utf-8") as page:
    for block in re.findall(r"```python\\n(.*?)```", page.read(), flags=re.DOTALL):
        exec(compile(block, sys.argv[1], "exec"), namespace)
norms.append(namespace["norm"])
of_all = [None] * dist.get_world_size()
dist.all_gather_object(of_all, norms)
model = namespace["build"]()
namespace["backward"](model)
if dist.get_rank() == 0:
    print(json.dumps([torch.nn.utils.get_total_norm([p.grad for p in model.parameters()]).item(), of_all]), flush=True)
dist.barrier()  # so that none takes its connections down while another is at work
dist.destroy_process_group()
"""
"""Runs all blocks of a page, as a reader would type them; prints the norm of its model, and what each rank got."""


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def task() -> ModuleType:
    spec = importlib.util.spec_from_file_location("task", ROOT / "examples" / "distributed" / "task.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def alone(task: ModuleType) -> list[float]:
    return task.norms_of_one_process()


def documented_arguments(script: Path) -> list[str]:
    docstring = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8")))
    assert docstring is not None
    (arguments,) = re.findall(r"^Run: torchrun (.*)$", docstring, re.MULTILINE)
    return arguments.split()


def torchrun(*arguments: str, really: bool = False) -> tuple[str, str, int]:
    """Return what was printed to the standard streams, and the exit code; by forks, where torchrun is not the point."""
    if not really:
        option, size, script, *rest = arguments
        assert option == "--nproc-per-node"
        done = ranks(ROOT / script, *rest, size=int(size), cwd=ROOT)
        code = next((x.returncode for x in done if x.returncode), 0)
        return "".join(x.stdout for x in done), "".join(x.stderr for x in done), code
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PET_STANDALONE": "1"}  # at any free port
    command = [sys.executable, "-m", "torch.distributed.run", *arguments]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            out, err = process.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.terminate()  # upon which it ends its ranks
            out, err = process.communicate()
        return out, err, process.returncode


@pytest.mark.parametrize(
    ("name", "ranks"), [("ddp", 2), ("fsdp2", 2), ("torchtitan_style", 2), ("fsdp2_tp", 4), ("pipeline", 2)]
)
def test_an_example_has_the_norms_of_one_process(task: ModuleType, alone: list[float], name: str, ranks: int) -> None:
    arguments = documented_arguments(ROOT / "examples" / "distributed" / f"{name}.py")
    assert arguments == ["--nproc-per-node", str(ranks), f"examples/distributed/{name}.py"]
    assert f"\ntorchrun {' '.join(arguments)}\n" in PAGE.read_text(encoding="utf-8")
    out, err, code = torchrun(*arguments, really=name == "ddp")
    assert code == 0, out + err
    assert "Warning" not in err
    header, *rows = out.splitlines()
    assert header == "step  norm here  norm of one process  relative difference"
    assert len(rows) == task.STEPS
    for step, row in enumerate(rows, start=1):
        assert len(row) == len(header)
        number, norm, expected, difference = map(float, row.split())
        assert number == step
        assert norm == pytest.approx(alone[step - 1], rel=task.MOST_APART)
        assert expected == pytest.approx(alone[step - 1], rel=1e-6)
        assert difference <= task.MOST_APART


def test_the_page_has_one_norm_on_every_layout(tmp_path: Path) -> None:
    script = tmp_path / "page.py"
    script.write_text(RUN_THE_PAGE, encoding="utf-8")
    out, err, code = torchrun("--nproc-per-node", "4", str(script), str(PAGE))
    assert code == 0, out + err
    assert "MisuseWarning" not in err
    expected, (norms, *others) = json.loads(out)
    assert others == [norms] * 3
    assert len(norms) == 11
    assert norms == pytest.approx([expected] * 11, rel=1e-6)
    assert expected > 2.0  # more than the bound: all clip


def test_every_step_of_the_examples_clips(task: ModuleType, alone: list[float]) -> None:
    assert len(alone) == task.STEPS
    assert min(alone) > 2 * task.MAX_NORM


def test_parts_make_the_whole_batch(task: ModuleType) -> None:
    for whole, *parts in zip(task.batch(3), task.batch(3, 0, 2), task.batch(3, 1, 2), strict=True):
        assert torch.equal(whole, torch.cat(parts))
    contexts, following = task.batch(3)
    assert contexts.shape == (task.BATCH, task.CONTEXT)
    assert all(
        bytes([*row, last]) in task.TEXT for row, last in zip(contexts.tolist(), following.tolist(), strict=True)
    )


def test_norms_that_rounding_explains_pass(
    task: ModuleType, alone: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    task.compare([norm * (1 + 1e-6) for norm in alone])
    assert capsys.readouterr().out.count("\n") == 1 + task.STEPS


@pytest.mark.parametrize("wrong", [1 - 5e-6, 1 + 5e-6, math.sqrt(2), math.nan])
def test_a_single_wrong_norm_is_noticed(task: ModuleType, alone: list[float], wrong: float) -> None:
    with pytest.raises(SystemExit, match=r"^1 of 10 norms are further apart than rounding explains \(3e-06\)$") as end:
        task.compare([*alone[:4], alone[4] * wrong, *alone[5:]])
    assert isinstance(end.value.code, str)  # which Python prints, and exits with 1


def test_any_parameter_counted_twice_is_noticed(task: ModuleType) -> None:
    model = task.build()
    inputs, targets = task.batch(0)
    torch.nn.functional.cross_entropy(model(inputs), targets).backward()
    squares = [p.grad.double().square().sum().item() for p in model.parameters()]
    assert all(math.sqrt((sum(squares) + x) / sum(squares)) - 1 > 2 * task.MOST_APART for x in squares)
