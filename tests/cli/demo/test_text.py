"""The text of the demo: what it reads, what it refuses, what it holds out."""

import math
import sys
from pathlib import Path

import pytest
import torch

from cli.demo.reading import refused
from gradclip.cli import UserError
from gradclip.cli.demo.text import FEWEST, encode, load


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "has 0 characters"),
        (b"short", "has 5 characters"),
        (b"a" * FEWEST, "repeats one symbol"),
        ("Grüße".encode("latin-1") * FEWEST, "is not UTF-8 text"),
        ("abc".encode("utf-16") * FEWEST, "is not UTF-8 text"),
        (b"\x00\x01" * FEWEST, "is binary"),
    ],
)
def test_refuses_what_cannot_be_trained_on(
    content: bytes, reason: str, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    remedy = "Give a plain UTF-8 text of 10,000 characters or more, as of a book."
    assert refused(capsys, "--text", str(path), "--out", str(out)) == f"gradclip: --text {path} {reason}. {remedy}\n"
    assert not out.exists()


def test_refuses_what_is_not_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"--text {tmp_path} cannot be read (Is a directory)" in refused(capsys, "--text", str(tmp_path))
    assert f"{tmp_path}/none cannot be read (No such file or directory)" in refused(
        capsys, "--text", f"{tmp_path}/none"
    )


def test_keeps_the_message_on_one_line_whatever_the_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert "\x1b" not in refused(capsys, "--text", "/none/line\nbreak\x1b[31m")


def test_says_which_text_to_give_without_the_documentation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    message = refused(capsys)
    assert "without its documentation" in message
    assert "--text FILE" in message


def test_reads_utf8_with_any_line_ends_and_a_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbf" + "é\r\n字".encode() * FEWEST)
    corpus = load(path)
    assert corpus.symbols == "\né字"
    assert corpus.training[:6].tolist() == [1, 0, 2, 1, 0, 2]
    assert corpus.characters == 3 * FEWEST


def test_reads_no_more_than_it_can_hold(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradclip.cli.demo.text.MOST", 12_000)
    corpus = load(text)
    assert corpus.characters == 12_000
    assert corpus.source == f"the beginning of {text}"


@pytest.mark.parametrize("length", [FEWEST, FEWEST + 7, 200_003])
def test_holds_out_every_tenth_stretch(length: int) -> None:
    """Nothing is lost, nothing is in both, and the stretches lie evenly over the text."""
    corpus = encode("".join(map(chr, range(0x10000, 0x10000 + length))), "symbols that occur once")
    training, held_out = corpus.training, corpus.validation
    assert torch.cat([training, held_out]).sort().values.equal(torch.arange(length))
    assert len(held_out) == pytest.approx(length / 10, rel=0.01)
    stretches = max(1, length // 20_000)
    begins = held_out[1:][held_out.diff() > 1].tolist()
    assert len(begins) == stretches - 1
    assert held_out[0] == pytest.approx(0.9 * length / stretches, rel=0.01)
    assert begins == pytest.approx([int(held_out[0]) + length / stretches * i for i in range(1, stretches)], rel=0.01)


def test_guessing_costs_the_logarithm_of_the_symbols() -> None:
    assert encode("abc" * FEWEST, "letters").guessing_bits == math.log2(3)


def test_finds_the_documentation() -> None:
    corpus = load(None)
    assert corpus.characters > 100_000
    assert 6 < corpus.guessing_bits < 8


def test_a_corpus_of_another_kind_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="--text poem has 4 characters"):
        encode("rose", "poem")
