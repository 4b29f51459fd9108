"""`gradclip run`: a script runs as it is, and is recorded, or clipped by a rule."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gradclip.cli import main
from processes import GRADCLIP, run

SCRIPT = '''
"""A training script that knows nothing of gradclip."""
import sys
import torch

torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
for step in range(int(sys.argv[1])):
    x = torch.randn(16, 4)
    optimizer.zero_grad()
    (model(x) - 3.0 * x.sum(1, keepdim=True)).square().mean().backward()
    if "clip" in sys.argv:
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    seen = sum(p.grad.square().sum() for p in model.parameters()).sqrt().item()
    if step == 0:
        print(f"first {seen:.3f}")
print(__name__, sys.argv[1:], __file__.rpartition("/")[2])
if "fail" in sys.argv:
    raise ValueError("mine")
sys.exit(7 if "seven" in sys.argv else 0)
'''

HOOK = """
import os
import sys

sys.excepthook = lambda kind, error, trace: print(
    kind.__name__, os.path.basename(trace.tb_frame.f_code.co_filename), trace.tb_lineno
)
1 / 0
"""

LATE = '''
"""A script that trains in a thread, and saves its model there and at exit."""
import atexit
import io
import sys
import threading

import torch


class Net(torch.nn.Linear):
    pass


def save(where):
    torch.save(Net(1, 1), io.BytesIO())
    print(where)


def train():
    main.join()
    p = torch.nn.Parameter(torch.ones(2))
    p.grad = torch.ones(2)
    torch.optim.SGD([p], lr=0.1).step()
    save("thread")


main = threading.main_thread()
atexit.register(save, "exit")
threading.Thread(target=train).start()
sys.exit(3)
'''

RANKS = """
import gc

import torch
from torch import distributed

distributed.init_process_group("gloo")
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for _ in range(3):
    optimizer.zero_grad()
    model(torch.randn(8, 4)).square().mean().backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    optimizer.step()
del model
gc.collect()  # or torch may abort where it ends: parts of a model of DDP hold each other
distributed.destroy_process_group()
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "train.py"
    path.write_text(SCRIPT)
    return path


def launched(*words: object, cwd: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Do as `python -m gradclip run` would."""
    return run(GRADCLIP, "run", *words, cwd=cwd, **environment)


def python(*words: object, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """Run Python anew, which a fork cannot stand for: what comes before the first line matters."""
    line = [sys.executable, *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True, check=False, cwd=cwd, timeout=300)


def records_in(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_three_commands(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Record a run that does not clip, ask which threshold it needs, and clip by a policy: without an edit."""
    folder = script.parent
    done = launched("--record", "pilot.jsonl", script.name, 130, cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "__main__ ['130'] train.py"
    found = records_in(folder / "pilot.jsonl")
    assert [record["step"] for record in found] == list(range(1, 131))
    assert {record["status"] for record in found} == {"ok"}
    assert f"first {found[0]['total_norm']:.3f}" in done.stdout
    assert main(["advise", str(folder / "pilot.jsonl")]) == 0
    assert "130" in capsys.readouterr().out
    done = launched("--policy", "fixed:0.125", "--record", "second.jsonl", script.name, 3, "clip", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "first 0.125" in done.stdout
    assert {record["threshold"] for record in records_in(folder / "second.jsonl")} == {0.125}


@pytest.mark.parametrize(
    ("spec", "rank", "said"),
    [
        ("zclip", "0", "--policy zclip:max_norm=1.0"),
        ("ZClip:2.5", "0", "--policy ZClip:2.5,max_norm=1.0"),
        ("zclip:", "0", "--policy zclip:max_norm=1.0"),
        ("zclip", "1", ""),
        ("agc", "0", ""),
    ],
)
def test_a_rule_without_a_ceiling_is_said_to_have_none(script: Path, spec: str, rank: str, said: str) -> None:
    """The script's own bound is gone: the first rank says so, where nobody has asked for it."""
    done = launched("--policy", spec, script.name, 3, "clip", cwd=script.parent, RANK=rank)
    told = f"gradclip: --policy {spec} replaces the script's own bound and has no ceiling. To set one: {said}\n"
    assert (done.returncode, done.stderr) == (0, told if said else "")


OTHER = """
import sys
import torch


def work():
    w = torch.ones(2, requires_grad=True)
    w.sum().backward()
    if "clip" in sys.argv:
        torch.nn.utils.clip_grad_norm_([w], 1.0)
    if "value" in sys.argv:
        torch.nn.utils.clip_grad_value_([w], 1.0)
    with torch.no_grad():
        w -= w.grad
        w.grad = None
    if "fused" in sys.argv:
        torch.optim.SGD([w]).step()  # as of one that has stepped in `backward`
    if "step" in sys.argv:
        torch.optim.SGD([w]).step(lambda: w.sum().backward())


if __name__ == "__main__":
    if "process" in sys.argv:
        import multiprocessing
        process = multiprocessing.get_context("spawn").Process(target=work)
        process.start()
        process.join()
    elif "fork" in sys.argv:
        import os
        if (child := os.fork()) == 0:
            work()
            os._exit(0)
        os.waitpid(child, 0)
    else:
        work()
    if "fail" in sys.argv:
        raise ValueError("mine")
    if "closed" in sys.argv:
        sys.stderr.close()
    if "none" in sys.argv:
        sys.stderr = None
    sys.exit("code" in sys.argv and 3)
"""


@pytest.mark.parametrize(
    ("options", "words", "is_said"),
    [
        (["--record", "run.jsonl"], [], True),
        (["--max-norm", "1"], [], True),
        ([], [], False),
        (["--max-norm", "1"], ["fused"], True),
        (["--max-norm", "1"], ["step"], False),
        (["--record", "run.jsonl"], ["fail"], False),
        (["--record", "run.jsonl"], ["code"], False),
        (["--record", "run.jsonl"], ["closed"], False),
        (["--record", "run.jsonl"], ["none"], False),
        (["--record", "run.jsonl"], ["clip"], False),
        (["--record", "run.jsonl"], ["value"], False),
        (["--max-norm", "1"], ["process"], False),
        pytest.param(
            ["--max-norm", "1"], ["fork"], False, marks=pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
        ),
    ],
)
def test_a_script_that_never_steps_is_told(options: list[str], words: list[str], is_said: bool, tmp_path: Path) -> None:
    """As with an optimizer that is not of torch: a bound that was asked for did nothing."""
    (tmp_path / "other.py").write_text(OTHER)
    done = launched(*options, "other.py", *words, cwd=tmp_path)
    assert ("gradclip: no torch optimizer took a step" in done.stderr) == is_said
    assert done.returncode == (1 if "fail" in words else 3 if "code" in words else 0)


def test_how_it_ends_is_its_own(script: Path) -> None:
    """Its exit code; its error, from its own first line on."""
    assert launched(script.name, 1, "seven", cwd=script.parent).returncode == 7
    done = launched("--record", "r.jsonl", script.name, 2, "fail", "--record", "-m", cwd=script.parent)
    assert done.returncode == 1
    assert "__main__ ['2', 'fail', '--record', '-m'] train.py" in done.stdout
    lines = done.stderr.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1].endswith('train.py", line 21, in <module>')
    assert lines[-1] == "ValueError: mine"
    assert "gradclip" not in done.stderr
    assert len(records_in(script.parent / "r.jsonl")) == 2


def test_a_hook_of_the_script_gets_an_error_as_in_python(tmp_path: Path) -> None:
    """Such as that of rich, or of a tracker: from the first line of the script on."""
    (tmp_path / "hook.py").write_text(HOOK)
    done = launched("hook.py", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.split() == ["ZeroDivisionError", "hook.py", str(1 + HOOK.splitlines().index("1 / 0"))]


def test_what_cannot_begin_is_said_as_python_does(script: Path) -> None:
    """A module that is not there, and a script that is none."""
    (script.parent / "broken.py").write_text("x = = 1\n")
    for words, last in (("-m nowhere", "No module named nowhere"), ("broken.py", "SyntaxError: invalid syntax")):
        done = launched(*words.split(), cwd=script.parent)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.rstrip().endswith(last)
        assert "gradclip" not in done.stderr and "runpy" not in done.stderr


@pytest.mark.parametrize("words", ["late.py", "-m late"])
def test_what_goes_on_after_the_script_finds_it(words: str, tmp_path: Path) -> None:
    """A thread, and what is called at exit, pickle what is of the script, which stays `__main__`."""
    (tmp_path / "late.py").write_text(LATE)
    done = launched("--record", "r.jsonl", *words.split(), cwd=tmp_path)
    assert (done.returncode, done.stderr, done.stdout.split()) == (3, "", ["thread", "exit"])
    assert len(records_in(tmp_path / "r.jsonl")) == 1


SPAWNING = """
import multiprocessing
import os
import sys


class Own:
    pass


def make(_):
    return Own()


if __name__ == "__main__":
    print(sys.path[0], sys.argv[0], __file__)
    print(any(folder in ("", os.getcwd()) for folder in sys.path))
    os.chdir("/")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(type(pool.map(make, [0])[0]) is Own)
"""


def test_what_it_is_and_where_it_looks_is_as_in_python(tmp_path: Path) -> None:
    """Classes come back from processes that are spawned; its file has a whole path; modules beside it come first."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "main.py").write_text(SPAWNING)
    ours = python("-m", "gradclip", "run", "scripts/main.py", cwd=tmp_path)
    expected = python("scripts/main.py", cwd=tmp_path)
    assert ours.stdout == expected.stdout != ""
    assert (ours.returncode, ours.stderr, ours.stdout.split()[-2:]) == (0, "", ["False", "True"])


def test_a_module(script: Path) -> None:
    """As `python -m` runs it; the bound is given."""
    done = launched("--max-norm", 0.5, "-m", "train", 2, cwd=script.parent)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["first 0.500", "__main__ ['2'] train.py"]


def test_two_ranks(tmp_path: Path) -> None:
    """Under torchrun, rank 0 writes."""
    (tmp_path / "ranks.py").write_text(RANKS)
    of_torchrun = ("--nproc-per-node", 2, "--master-port", 29871, "--log-dir", tmp_path)
    words = ("-m", "gradclip", "run", "--record", "r.jsonl", "ranks.py")
    done = python("-m", "torch.distributed.run", *of_torchrun, *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [record["step"] for record in records_in(tmp_path / "r.jsonl")] == [1, 2, 3]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "gradclip run needs a script: gradclip run SCRIPT ARGS, or"),
        (["nowhere.py"], "nowhere.py: there is no such script. Write -m where it is a module."),
        (
            ["torchrun", "--nproc-per-node", "2", "SCRIPT"],
            "Have it start gradclip: torchrun ... -m gradclip run SCRIPT",
        ),
        (["bin/torchrun", "SCRIPT"], "bin/torchrun starts other programs, which gradclip run does not reach."),
        (["-m", "torch.distributed.run", "SCRIPT"], "torchrun ... -m gradclip run SCRIPT ARGS."),
        (["accelerate", "launch", "SCRIPT"], "accelerate launch ... -m gradclip run SCRIPT ARGS."),
        (["--policy", "zclip", "--max-norm", "1", "x.py"], "--policy and --max-norm are two rules. Give one."),
        (["--policy", "nonsense", "SCRIPT"], "--policy nonsense must be one of"),
        (["--max-norm", "-1", "SCRIPT"], "gradclip: --max-norm must be >= 0, got -1. To record alone, leave it out."),
        (["--max-norm", "nan", "SCRIPT"], "gradclip: --max-norm must be >= 0, got nan."),
        (["PIPE"], "it is neither a file nor a folder. Write the script to a file and name that."),
        (["--record", "FOLDER", "SCRIPT"], ": Is a directory. Name a file that can be written."),
        (["--record", "PIPE", "SCRIPT"], ": not a regular file. Name a file that can be written."),
        (["--record", "SCRIPT", "SCRIPT"], "train.py holds something else than records. Name another file."),
        (["--recrod", "r.jsonl", "SCRIPT"], "No such option: --recrod"),
    ],
)
def test_what_is_refused(words: list[str], message: str, script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In one line, before anything runs."""
    given = {"SCRIPT": str(script), "FOLDER": str(script.parent), "PIPE": str(script.parent / "pipe")}
    os.mkfifo(given["PIPE"])
    assert main(["run", *(given.get(word, word) for word in words)]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_the_names_of_policies_and_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a script."""
    assert main(["run", "--policy", "help"]) == 0
    assert "zclip" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("gradclip ")
