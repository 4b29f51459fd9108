"""`--run`: one of the runs in a file, with the commands that show it."""

from pathlib import Path

import pytest

from cli.recordings import lognormal
from gradclip.cli import main
from gradclip.cli.watch.session import Session
from gradclip.records.line import line_of
from records.made import record

REFUSAL = "the rows are of 2 runs: 'a', 'b'. Name one with run= (`gradclip advise --run NAME`), or write each to a file"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A table of a run of 30 steps, and below it one of 20."""
    lengths = {"a": 30, "b": 20}
    rows = [f"{step},{norm},{name}\n" for name, n in lengths.items() for step, norm in enumerate(lognormal(n), 1)]
    (tmp_path / "runs.csv").write_text("step,grad_norm,run\n" + "".join(rows))
    return tmp_path / "runs.csv"


def test_a_report_of_one(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = runs.with_name("page.html")
    assert main(["report", str(runs), "--out", str(page)]) == 2
    assert REFUSAL in capsys.readouterr().err
    assert main(["report", str(runs), "--out", str(page), "--run", "b"]) == 0
    written = page.read_text("utf-8")
    assert "20 steps" in written and "30 steps" not in written


def test_one_is_watched(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", str(runs), "--once"]) == 2
    assert REFUSAL in capsys.readouterr().err
    assert main(["watch", str(runs), "--once", "--run", "b"]) == 0
    assert "step       20" in capsys.readouterr().out


def test_one_group_is_watched_as_it_grows(tmp_path: Path) -> None:
    """The others are passed over, and so are their parameters; the run may begin after theirs."""
    path, session = tmp_path / "run.jsonl", Session(tmp_path / "run.jsonl", named="critic")
    for step in range(1, 4):
        with path.open("ab") as file:
            for group, norm in (("actor", 8.0), ("critic", 2.0), (None, 9.0)):
                if (step, group) != (1, "critic"):
                    file.write(line_of(record(step, group=group, total_norm=norm, worst=((f"{group}.w", 0.5),))))
        session.look()
    assert session.run is not None
    assert (session.run.steps.tolist(), session.run.norms.tolist()) == ([2, 3], [2.0, 2.0])
    assert session.run is not None and session.run.worst[-1] == (3, (("critic.w", 0.5),))
