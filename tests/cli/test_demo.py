"""`gradclip demo`: what it trains, prints, draws and saves, and how it refuses."""

import csv
import math
import random
import signal
import subprocess
import sys
from collections.abc import Iterable
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch
from rich.console import Console
from rich.text import Text

import gradclip
from gradclip.cli import UserError, main
from gradclip.cli.demo import display, session
from gradclip.cli.demo.outcome import Outcome, sample, validate
from gradclip.cli.demo.picture import COLORS
from gradclip.cli.demo.text import FEWEST, Corpus, encode, load
from gradclip.cli.demo.training import CharacterModel, StepRecord, build, train, windows

UNCLIPPED, CLIPPED = "without clipping", "with clipping"


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of words, long enough and quick to train on."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghij", k=draw.randint(2, 7))) for _ in range(50)]
    path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_text(" ".join(draw.choices(words, k=4_000)), encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def short_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing a thousand characters takes as long as thirty training steps."""
    monkeypatch.setattr(session, "WRITTEN", 120)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "results"


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "steps.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def shows(picture: Path, color: str) -> bool:
    """Whether a picture has a line of this colour: some fifty pixels of it, or more."""
    pixels = matplotlib.image.imread(picture)[..., :3]
    wanted = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return int((np.abs(pixels - wanted).max(axis=-1) < 0.02).sum()) > 50


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that must be refused: code 2, nothing on stdout, one line on stderr, which is returned."""
    code = main(["demo", *arguments])
    printed = capsys.readouterr()
    assert code == 2
    assert printed.out == ""
    assert printed.err.endswith("\n")
    assert len(printed.err.splitlines()) == 1
    return printed.err


class TestText:
    @pytest.mark.parametrize(
        ("content", "reason", "remedy"),
        [
            (b"", "is empty", "10,000 characters or more"),
            (b"short", "has 5 characters", "10,000 or more"),
            (b"a" * FEWEST, "repeats one symbol", "something to learn"),
            ("Grüße".encode("latin-1") * FEWEST, "is not UTF-8 text", "UTF-8"),
            ("abc".encode("utf-16") * FEWEST, "is not UTF-8 text", "UTF-8"),
            (b"\x00\x01" * FEWEST, "is binary", "plain text"),
        ],
    )
    def test_refuses_what_cannot_be_trained_on(
        self, content: bytes, reason: str, remedy: str, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "a.txt"
        path.write_bytes(content)
        message = refused(capsys, "--text", str(path), "--out", str(out))
        assert message.startswith(f"gradclip: --text {path} {reason}. ")
        assert remedy in message
        assert not out.exists()

    def test_refuses_what_is_not_a_file(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert f"--text {tmp_path} is a folder" in refused(capsys, "--text", str(tmp_path))
        assert f"--text {tmp_path}/none does not exist" in refused(capsys, "--text", f"{tmp_path}/none")

    def test_keeps_the_message_on_one_line_whatever_the_name(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert "\x1b" not in refused(capsys, "--text", "/none/line\nbreak\x1b[31m")

    def test_says_which_text_to_give_without_the_documentation(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
        message = refused(capsys)
        assert "without its documentation" in message
        assert "--text FILE" in message

    def test_reads_utf8_with_any_line_ends_and_a_mark(self, tmp_path: Path) -> None:
        path = tmp_path / "a.txt"
        path.write_bytes(b"\xef\xbb\xbf" + "é\r\n字".encode() * FEWEST)
        corpus = load(path)
        assert corpus.symbols == "\né字"
        assert corpus.characters[:6].tolist() == [1, 0, 2, 1, 0, 2]
        assert len(corpus.characters) == 3 * FEWEST

    def test_reads_no_more_than_it_can_hold(self, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("gradclip.cli.demo.text.MOST", 12_000)
        corpus = load(text)
        assert len(corpus.characters) == 12_000
        assert corpus.source == f"the beginning of {text}"

    def test_keeps_the_last_tenth_apart(self) -> None:
        corpus = encode("ab" * FEWEST + "c" * (FEWEST // 5), "letters")
        assert len(corpus.training) == round(0.9 * len(corpus.characters))
        assert torch.cat([corpus.training, corpus.validation]).equal(corpus.characters)
        assert corpus.guessing_bits == math.log2(3)

    def test_finds_the_documentation(self) -> None:
        corpus = load(None)
        assert len(corpus.characters) > 100_000
        assert 6 < corpus.guessing_bits < 8


class TestTraining:
    def test_windows_go_on_where_the_last_one_ended(self) -> None:
        characters = torch.arange(1_000)
        pairs = windows(characters, streams=3)
        assert len(pairs) == 5  # 333 characters a stream hold five stretches of 64
        assert all(targets.equal(inputs + 1) for inputs, targets in pairs)
        assert torch.cat([inputs for inputs, _ in pairs])[:, 1].equal(torch.arange(333, 333 + 320))

    def test_a_model_depends_on_its_seed_alone(self) -> None:
        torch.manual_seed(5)
        before = torch.get_rng_state()
        first, second, other = build(9, 0), build(9, 0), build(9, 1)
        assert torch.get_rng_state().equal(before)
        assert all(a.equal(b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
        assert not first.head.weight.equal(other.head.weight)

    def test_clipping_keeps_the_network_learning_where_it_explodes_without(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        corpus = load(None)
        left: list[float] = []
        clip = gradclip.clip_grad_norm_

        def clip_and_measure(parameters: Iterable[torch.Tensor], max_norm: float) -> torch.Tensor:
            owners = list(parameters)
            norm = clip(owners, max_norm)
            squares = [owner.grad.double().square().sum() for owner in owners if owner.grad is not None]
            left.append(float(torch.stack(squares).sum().sqrt()))
            return norm

        monkeypatch.setattr(gradclip, "clip_grad_norm_", clip_and_measure)
        bits = {}
        for max_norm in (math.inf, 1.0):
            left.clear()
            model = build(len(corpus.symbols), seed=0)
            with session.one_thread():
                records = list(train(model, corpus.training, steps=150, lr=2.0, max_norm=max_norm))
            bits[max_norm] = np.mean([record.bits for record in records[-20:]])
            assert len(records) == len(left) == 150
            assert [record.clipped for record in records] == [record.norm > max_norm - 1e-6 for record in records]
            # Unclipped steps keep their norm, clipped ones are left with max_norm, to within the rounding of a float32.
            assert left == pytest.approx([min(record.norm, max_norm) for record in records], rel=1e-5)
        assert max(left) <= 1.0 + 1e-6
        assert bits[1.0] < 4.0 < corpus.guessing_bits < bits[math.inf]

    def test_stops_where_it_is_no_longer_finite(self, text: Path) -> None:
        corpus = load(text)
        model = build(len(corpus.symbols), seed=0)
        records = list(train(model, corpus.training, steps=30, lr=1e38, max_norm=math.inf))
        assert len(records) < 30
        assert [record.finite for record in records] == [True] * (len(records) - 1) + [False]


class TestOutcome:
    def test_validation_of_a_model_that_guesses_is_the_loss_of_guessing(self, text: Path) -> None:
        corpus = load(text)
        model = build(len(corpus.symbols), seed=0)
        torch.nn.init.zeros_(model.head.weight)
        torch.nn.init.zeros_(model.head.bias)
        assert validate(model, corpus.validation) == pytest.approx(corpus.guessing_bits, rel=1e-6)
        assert validate(model, corpus.validation[:100]) == pytest.approx(corpus.guessing_bits, rel=1e-6)

    def test_samples_what_the_model_prefers(self) -> None:
        model = certain(symbol=2)
        assert sample(model, "abc", torch.tensor([0, 1]), characters=5, seed=0) == "ccccc"

    def test_samples_nothing_from_a_model_that_is_not_a_number(self) -> None:
        model = certain(symbol=2)
        torch.nn.init.constant_(model.head.bias, math.nan)
        assert sample(model, "abc", torch.tensor([0, 1]), characters=5, seed=0) == ""

    def test_measures_the_end_of_a_run(self) -> None:
        records = [StepRecord(i, bits=8.0 if i <= 10 else 2.0, norm=float(i), clipped=i > 45) for i in range(1, 61)]
        outcome = Outcome(CLIPPED, records, 2.0, "")
        assert (outcome.training_bits, outcome.largest_norm, outcome.clipped_share) == (2.0, 60.0, 0.25)
        broken = Outcome(CLIPPED, [*records, StepRecord(61, math.nan, math.nan, clipped=False)], math.nan, "")
        assert math.isnan(broken.training_bits)
        assert math.isnan(broken.largest_norm)
        assert not broken.finite


def certain(symbol: int) -> CharacterModel:
    """A model of three symbols that always predicts the same one."""
    model = build(3, seed=0)
    torch.nn.init.zeros_(model.head.weight)
    model.head.bias.data = torch.tensor([1e4 if i == symbol else 0.0 for i in range(3)])
    return model


class TestCommand:
    def test_trains_draws_and_saves(self, text: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
        threads = torch.get_num_threads()
        code = main(["demo", "--text", str(text), "--steps", "40", "--out", str(out)])
        printed = capsys.readouterr()
        assert code == 0
        assert printed.err == ""
        lines = printed.out.splitlines()
        corpus = load(text)
        assert lines[0] == f"Training on {text}: {len(corpus.characters):,} characters, 11 symbols."
        assert lines[-1] == f"Written to the folder {out}: demo.png and steps.csv."
        assert f"{UNCLIPPED}: step 10/40" in printed.out
        assert not {"\x1b", "\r"} & set(printed.out)
        assert torch.get_num_threads() == threads

        rows = rows_of(out)
        assert [(row["run"], int(row["step"])) for row in rows] == [
            (run, step) for run in (UNCLIPPED, CLIPPED) for step in range(1, 41)
        ]
        for row in rows:
            assert int(row["clipped"]) == (row["run"] == CLIPPED and float(row["gradient_norm"]) > 1.0)
        clipped = [row for row in rows if row["run"] == CLIPPED]
        mean = np.mean([float(row["bits_per_character"]) for row in clipped])
        share = np.mean([int(row["clipped"]) for row in clipped])
        table = {line[:24].strip(): line[24:].split("  ") for line in lines if line.startswith("  ")}
        assert table["training loss"][-2 if table["training loss"][-1] == "" else -1].strip() == f"{mean:.2f}"
        assert f"{100 * share:.1f} %" in [cell.strip() for cell in table["steps clipped"]]
        assert all(shows(out / "demo.png", color) for color in COLORS)

    def test_the_same_seed_gives_the_same_numbers(self, text: Path, tmp_path: Path) -> None:
        runs = {}
        for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
            assert (
                main(["demo", "--text", str(text), "--steps", "8", "--seed", seed, "--out", str(tmp_path / name)]) == 0
            )
            runs[name] = rows_of(tmp_path / name)
        assert runs["a"] == runs["b"]
        assert runs["a"] != runs["c"]

    def test_options_reach_the_training(self, text: Path, out: Path) -> None:
        arguments = ["--text", str(text), "--steps", "5", "--max-norm", "0.01", "--lr", "0.25", "--out", str(out)]
        assert main(["demo", *arguments]) == 0
        rows = rows_of(out)
        corpus = load(text)
        with session.one_thread():
            records = list(train(build(11, seed=0), corpus.training, steps=5, lr=0.25, max_norm=0.01))
        assert [float(row["bits_per_character"]) for row in rows[5:]] == [record.bits for record in records]
        assert [row["clipped"] for row in rows] == ["0"] * 5 + ["1"] * 5

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--max-norm", "-1"], "'--max-norm': must be a positive number, got -1."),
            (["--max-norm", "0"], "'--max-norm': must be a positive number, got 0."),
            (["--max-norm", "nan"], "'--max-norm': must be a positive number, got nan."),
            (["--max-norm", "inf"], "'--max-norm': must be at most 1e+38, got inf."),
            (["--lr", "-2"], "'--lr': must be a positive number, got -2."),
            (["--lr", "1e39"], "'--lr': must be at most 1e+38, got 1e+39."),
            (["--lr", "fast"], "'--lr'"),
            (["--steps", "0"], "'--steps': must be 1 or more, got 0."),
            (["--steps", "1.5"], "'--steps'"),
            (["--seed", "-1"], "'--seed': must be from 0 to 9223372036854775807, got -1."),
            (["--seed", str(2**63)], "'--seed': must be from 0"),
            (["--colour"], "--colour"),
            (["extra"], "extra"),
            (["--out"], "--out"),
        ],
    )
    def test_refuses_wrong_values(self, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert words in refused(capsys, *arguments)

    def test_refuses_a_folder_that_cannot_be_made(self, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
        message = refused(capsys, "--text", str(text), "--out", str(text))
        assert message == f"gradclip: --out {text} cannot be made a folder (File exists). Name another.\n"
        assert f"--out {text}/below" in refused(capsys, "--text", str(text), "--out", f"{text}/below")

    def test_refuses_an_unknown_command_in_one_line(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["demos"]) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.startswith("gradclip: No such command 'demos'.")
        assert printed.err.count("\n") == 1

    @pytest.mark.parametrize("arguments", [[], ["--help"]])
    def test_help_lists_the_command(self, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        assert main(arguments) == 0
        assert "demo" in capsys.readouterr().out

    @pytest.mark.parametrize("package", ["typer", "rich"])
    def test_says_what_to_install(
        self, package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setitem(sys.modules, package, None)
        assert main(["demo"]) == 2
        assert capsys.readouterr().err == ('gradclip: the commands need typer and rich: pip install "gradclip[cli]"\n')

    def test_goes_without_a_picture_where_matplotlib_is_missing(
        self, text: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        assert main(["demo", "--text", str(text), "--steps", "2", "--out", str(out)]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[-2] == 'No picture without matplotlib: pip install "gradclip[report]"'
        assert lines[-1] == f"Written to the folder {out}: steps.csv."
        assert len(rows_of(out)) == 4
        assert not (out / "demo.png").exists()

    def test_copes_with_runs_that_break_down(self, text: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["demo", "--text", str(text), "--lr", "1e38", "--steps", "30", "--out", str(out)]) == 0
        printed = capsys.readouterr().out
        steps = [row for row in rows_of(out) if row["run"] == UNCLIPPED]
        assert f"The run {UNCLIPPED} ended at step {len(steps)}: it was no longer finite." in printed
        assert len(steps) < 30
        assert not math.isfinite(float(steps[-1]["bits_per_character"]))
        assert "not finite" in printed
        assert matplotlib.image.imread(out / "demo.png").std() > 0.05


class TestInterrupt:
    @pytest.mark.parametrize(("at", "expected"), [(7, [6]), (37, [30, 6])])
    def test_shows_and_saves_what_there_is(
        self,
        at: int,
        expected: list[int],
        text: Path,
        out: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        interrupt_at_step(at, monkeypatch)
        assert main(["demo", "--text", str(text), "--steps", "30", "--out", str(out)]) == 130
        printed = capsys.readouterr()
        lines = printed.out.splitlines()
        assert printed.err == ""
        assert "Interrupted. This is what there is:" in lines
        assert lines[-1] == f"Written to the folder {out}: demo.png and steps.csv."
        assert next(line for line in lines if "steps taken" in line).split()[2:] == [str(n) for n in expected]
        runs = [row["run"] for row in rows_of(out)]
        assert [runs.count(run) for run in (UNCLIPPED, CLIPPED)][: len(expected)] == expected
        assert len(runs) == sum(expected)
        assert [shows(out / "demo.png", color) for color in COLORS] == [True, len(expected) == 2]

    def test_before_the_first_step(
        self, text: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        interrupt_at_step(1, monkeypatch)
        assert main(["demo", "--text", str(text), "--steps", "30", "--out", str(out)]) == 130
        assert capsys.readouterr().out.splitlines()[-1] == "Interrupted before the first step."
        assert list(out.iterdir()) == []

    @pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
    def test_a_piped_process_obeys_the_signal(self, out: Path) -> None:
        command = "import sys; from gradclip.cli import main; sys.exit(main(sys.argv[1:]))"
        process = subprocess.Popen(
            [sys.executable, "-c", command, "demo", "--steps", "200", "--out", str(out)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"Training on Python's own documentation: ")
        assert process.stdout.readline().startswith(b"without clipping: step 50/200, bits per character ")
        process.send_signal(signal.SIGINT)
        printed, errors = process.communicate(timeout=60)
        assert process.returncode == 130
        assert errors == b""
        assert not {b"\x1b"[0], b"\r"[0]} & set(printed)
        assert printed.splitlines()[-1] == f"Written to the folder {out}: demo.png and steps.csv.".encode()
        assert 50 <= len(rows_of(out)) < 400


def interrupt_at_step(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Press Ctrl-C in the middle of the step of this number, counted over both runs."""
    clip, calls = gradclip.clip_grad_norm_, iter(range(1, number + 1))

    def clip_or_interrupt(parameters: Iterable[torch.Tensor], max_norm: float) -> torch.Tensor:
        if next(calls) == number:
            raise KeyboardInterrupt
        return clip(parameters, max_norm)

    monkeypatch.setattr(gradclip, "clip_grad_norm_", clip_or_interrupt)


class TestDisplay:
    OUTCOMES = (
        Outcome(UNCLIPPED, [StepRecord(1, 6.5, 2_923_642.0, clipped=False)], 70.4, "nd  \n "),
        Outcome(CLIPPED, [StepRecord(1, 2.3, 0.5, clipped=True)], 2.1, "a [red]\x1b[31m \u202eb\n字" + "字" * 200),
    )

    def shown(self, console: Console, stream: StringIO) -> str:
        display.results(console, self.OUTCOMES, guessing_bits=6.69)
        display.samples(console, self.OUTCOMES)
        return stream.getvalue()

    def test_fits_a_narrow_terminal(self) -> None:
        stream = StringIO()
        console = Console(file=stream, force_terminal=True, width=60)
        with display.progress(console, steps=400) as watch:
            watch(UNCLIPPED, StepRecord(123, 71.23, 2_923_642.0, clipped=False))
        bar = Text.from_ansi(next(line for line in stream.getvalue().splitlines() if "123/400" in line))
        assert bar.plain.endswith("123/400  71.23 bits norm 2,923,642")
        assert bar.cell_len <= 60
        stream.truncate(0)
        lines = [Text.from_ansi(line) for line in self.shown(console, stream).splitlines()]
        assert 55 < max(line.cell_len for line in lines) <= 60

    def test_no_color_prints_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        colored, plain = StringIO(), StringIO()
        self.shown(Console(file=colored, force_terminal=True, color_system="standard", width=80), colored)
        monkeypatch.setenv("NO_COLOR", "1")
        self.shown(Console(file=plain, force_terminal=True, color_system="standard", width=80), plain)
        assert "\x1b[31m" in colored.getvalue()
        assert "\x1b[3" not in plain.getvalue().replace("\x1b[3m", "")

    def test_a_sample_is_one_readable_line(self) -> None:
        stream = StringIO()
        lines = self.shown(Console(file=stream, width=80), stream).splitlines()
        assert lines[-2] == "  without clipping: nd␣␣⏎␣"
        assert lines[-1] == "  with clipping:    a [red]·[31m ·b " + "字" * 84

    def test_an_encoding_that_lacks_a_character_gets_another(self) -> None:
        buffer = BytesIO()
        stream = TextIOWrapper(buffer, encoding="ascii")
        console = Console(file=stream, width=80)
        display.results(console, self.OUTCOMES, guessing_bits=6.69)
        display.samples(console, self.OUTCOMES)
        stream.flush()
        assert b"a [red]?[31m ?b ???" in buffer.getvalue()


def test_the_command_line_imports_what_is_slow_only_when_used() -> None:
    program = """
import sys, gradclip.cli.app
print(sorted({"gradclip.cli.demo.display", "gradclip.cli.demo.picture", "matplotlib"} & set(sys.modules)))
"""
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "[]\n"


def test_drawing_leaves_matplotlib_as_it_was(tmp_path: Path) -> None:
    program = f"""
import sys, matplotlib
from pathlib import Path
before = list(matplotlib.rcParams.copy().values())
from gradclip.cli.demo.outcome import Outcome
from gradclip.cli.demo.picture import draw
from gradclip.cli.demo.training import StepRecord
draw([Outcome("one", [StepRecord(1, 2.0, 3.0, False)], 2.0, "")],
     guessing_bits=6.0, max_norm=1.0, title="t", path=Path({str(tmp_path / "a.png")!r}))
print("matplotlib.pyplot" in sys.modules, list(matplotlib.rcParams.copy().values()) == before)
"""
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "False True\n"
    assert shows(tmp_path / "a.png", COLORS[0])


def test_a_corpus_of_another_kind_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="--text poem has 4 characters"):
        encode("rose", "poem")
    assert isinstance(encode("ab" * FEWEST, "letters"), Corpus)
