"""`gradclip bench` checks answers before it times them, and says what it measured."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gradclip.cli import main
from gradclip.cli.bench.cases import NATIVE, TORCH, Provider, load_shapes
from gradclip.cli.bench.harness import WrongAnswerError, interleaved, measure
from gradclip.ops import registry


def test_shapes_are_those_of_the_models() -> None:
    """The numbers of tensors and elements that the table of the README speaks of."""
    sizes = {name: (len(shapes.shapes), shapes.elements) for name, shapes in load_shapes().items()}
    assert sizes == {
        "gpt2-124M": (148, 124_439_808),
        "resnet50": (161, 25_557_032),
        "lora": (448, 3_735_552),
        "lstm": (11, 661_376),
        "mlp": (6, 269_322),
    }


def test_times_every_provider_in_every_case(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table, and the same figures in a file with the machine they belong to."""
    out = tmp_path / "new" / "bench.json"
    arguments = ["--shapes", "mlp", "--dtype", "float32", "--dtype", "bfloat16", "--seconds", "0.01", "--out", str(out)]
    assert main(["bench", *arguments]) == 0
    printed = capsys.readouterr().out
    record = json.loads(out.read_text("utf-8"))
    assert record["machine"]["torch"] == torch.__version__
    cases = {(t["dtype"], t["clipping"], t["provider"]) for t in record["timings"]}
    assert {(d, c, p) for d, c, p in cases if p == "torch"} == {
        (d, c, "torch") for d in ("float32", "bfloat16") for c in (False, True)
    }
    torchs = next(t for t in record["timings"] if t["provider"] == "torch")
    assert torchs["ratio_to_torch"] == 1
    assert torchs["p20_us"] <= torchs["median_us"] <= torchs["p80_us"]
    assert f"{torchs['median_us']:.0f}" in printed
    assert printed.count("clipping") == 2 == printed.count("unclipped")


def _wrong(parameters: list[Tensor], max_norm: float) -> Tensor:
    return torch.nn.utils.clip_grad_norm_(parameters, max_norm) * 1.1


def _idle(parameters: list[Tensor], max_norm: float) -> Tensor:
    del max_norm
    return torch.nn.utils.get_total_norm([p.grad for p in parameters])


@pytest.mark.parametrize("clip", [_wrong, _idle])
def test_a_wrong_answer_has_no_time(clip: object) -> None:
    """A wrong norm, or gradients that were not clipped."""
    with pytest.raises(WrongAnswerError, match="cheat is wrong by"):
        measure(load_shapes()["mlp"], torch.float32, [TORCH, Provider("cheat", clip)], clipping=True, seconds=0.01)


def test_clipping_clips_in_every_round() -> None:
    """The gradients are restored before each call: nobody finds them clipped already."""
    seen: list[float] = []

    def watched(parameters: list[Tensor], max_norm: float) -> Tensor | None:
        norm = NATIVE.clip(parameters, max_norm)
        seen.append(float(norm) / max_norm)
        return norm

    measure(load_shapes()["mlp"], torch.float32, [TORCH, Provider("watched", watched)], clipping=True, seconds=0.01)
    assert seen == pytest.approx([2.0] * len(seen), rel=1e-5)
    assert len(seen) >= 6


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--shapes", "vgg"], "--shapes must be one of gpt2-124M, resnet50, lora, lstm, mlp, got vgg"),
        (["--dtype", "int8"], "--dtype must be one of float32, bfloat16, got int8"),
        (["--seconds", "0"], "--seconds must be above 0, and 3600 at most, got 0"),
        (["--seconds", "inf"], "--seconds must be above 0, and 3600 at most, got inf"),
        (["--threads", "0"], "--threads must be 1 to 4096, got 0"),
        (["--threads", "99999999999"], "--threads must be 1 to 4096, got 99999999999"),
    ],
)
def test_wrong_values_are_one_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What is wrong, and what would be right."""
    assert main(["bench", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"gradclip: {words}")
    assert printed.err.count("\n") == 1


def test_a_backend_that_cannot_be_had_is_no_measurement(capsys: pytest.CaptureFixture[str]) -> None:
    before = registry.FORCED.set("bogus")
    try:
        assert main(["bench", "--shapes", "mlp", "--seconds", "0.01"]) == 2
    finally:
        registry.FORCED.reset(before)
    assert capsys.readouterr().err.startswith("gradclip: `GRADCLIP_BACKEND` must be ")


def test_a_file_that_cannot_be_written_is_said_before_measuring(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Minutes of measuring are not lost to a typing error."""
    blocked = tmp_path / "file"
    blocked.touch()
    assert main(["bench", "--shapes", "mlp", "--seconds", "0.01", "--out", str(blocked / "bench.json")]) == 2
    assert "torch" not in (printed := capsys.readouterr()).out
    assert "--out" in printed.err


def test_all_take_turns_and_none_always_follows_the_same() -> None:
    """What `gradclip bench` and the benchmarks time by."""
    done: list[str] = []
    calls = {name: lambda name=name: done.append(name) for name in "abc"}
    times = interleaved(calls, rounds=4, before=lambda name: done.append(f"<{name}"), after=lambda _: done.append(">"))
    order = [word for word in done if len(word) == 1 and word != ">"]
    assert "".join(order) == "abcbcacababc"
    assert done[:6] == ["<a", "a", ">", "<b", "b", ">"]
    assert {name: len(own) for name, own in times.items()} == dict.fromkeys("abc", 4)
    assert min(min(own) for own in times.values()) > 0.0
