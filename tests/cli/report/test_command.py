"""`gradclip report`: what it writes where, and what it refuses to do."""

import os
import sys
from pathlib import Path

import pytest

from cli.report.made import reported, training, write
from gradclip.cli import UserError
from gradclip.cli.report import names_of, report


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write(tmp_path / "run.jsonl", training(150))


def test_says_what_it_has_written(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "page.html"
    report(run, out=out)
    size = out.stat().st_size
    assert capsys.readouterr().out == f"Written: {out} ({size / 1e6:.1f} MB). Open it in a browser.\n"
    assert 1.5e6 < size < 3e6  # the plotting library, and next to nothing
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html", "run.jsonl"]


def test_overwrites_only_when_told_to(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    out.write_text("mine", "utf-8")
    with pytest.raises(UserError, match=r"--out .*page\.html exists\. Pass --force to overwrite it"):
        report(run, out=out)
    assert out.read_text("utf-8") == "mine"
    report(run, out=out, force=True)
    assert out.read_text("utf-8").startswith("<!doctype html>")


def test_never_overwrites_a_run(run: Path, tmp_path: Path) -> None:
    """Not even when told to, nor by way of a link."""
    before = run.read_bytes()
    with pytest.raises(UserError, match="is one of the runs"):
        report(run, out=run, force=True)
    (tmp_path / "link.html").hardlink_to(run)
    with pytest.raises(UserError, match="is one of the runs"):
        report(run, out=tmp_path / "link.html", force=True)
    assert run.read_bytes() == before


def test_says_what_is_wrong_with_the_target_before_it_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = tmp_path / "missing.jsonl"
    with pytest.raises(UserError, match="there is no folder .*nowhere"):
        report(missing, out=tmp_path / "nowhere" / "page.html")
    with pytest.raises(UserError, match="is a folder"):
        report(missing, out=tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match="may not be written"):
        report(missing, out=tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_is_said_in_a_line(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing half done stays."""

    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(UserError, match="No space left on device"):
        report(run, out=tmp_path / "page.html")
    assert [path.name for path in tmp_path.iterdir()] == ["run.jsonl"]


@pytest.mark.parametrize("package", ["polars", "plotly", "jinja2", "tsdownsample"])
def test_names_the_extra_where_a_package_is_missing(
    package: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf'needs {package}: pip install "\.\[report\]" in a clone') as raised:
        report(run, out=tmp_path / "page.html")
    assert "\n" not in str(raised.value)


def test_a_run_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    for name, content, words in (
        ("missing.jsonl", None, "no such file"),
        ("empty.jsonl", "", r"empty\.jsonl"),
        ("negative.csv", "step,grad_norm\n1,0.5\n2,-3.0\n", "line 3: a norm must be >= 0"),
    ):
        path = tmp_path / name
        if content is not None:
            path.write_text(content, "utf-8")
        with pytest.raises(UserError, match=words) as raised:
            report(path, out=tmp_path / "page.html")
        assert "\n" not in str(raised.value)
        assert name in str(raised.value)
        assert not (tmp_path / "page.html").exists()


def test_takes_so_many_runs(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--compare must be given at most 5 times, got 6"):
        report(run, out=tmp_path / "page.html", compare=[run] * 6)
    page = reported(run, tmp_path / "page.html", *([run] * 5))
    assert page.count('data-state="runs.') == 6


def test_the_page_does_not_say_where_it_was_made(run: Path, tmp_path: Path) -> None:
    """Nothing of the machine: not the folder, as it may be sent around."""
    page = reported(run, tmp_path / "page.html")
    assert str(tmp_path) not in page
    assert tmp_path.name not in page


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["run.jsonl"], ["run.jsonl"]),
        (["/x/a/run.jsonl", "/x/b/run.jsonl"], ["a/run.jsonl", "b/run.jsonl"]),
        (["a/c/run.jsonl", "b/c/run.jsonl", "b/c/other.csv"], ["a/c/run.jsonl", "b/c/run.jsonl", "other.csv"]),
        (["./run.jsonl", "b/run.jsonl"], ["run.jsonl", "b/run.jsonl"]),
    ],
)
def test_names_are_as_long_as_it_takes(paths: list[str], names: list[str]) -> None:
    assert names_of([Path(path) for path in paths]) == names
