"""A file that is followed: every line once, whatever happens to the file."""

import os
from pathlib import Path

import pytest

from gradclip.analysis.reading import ReadError
from gradclip.cli.watch import follow
from gradclip.cli.watch.follow import CUT, GONE, MISSING, REPLACED, Follower, Found


def write(path: Path, data: bytes, mode: str = "ab") -> None:
    with path.open(mode) as file:
        file.write(data)


def data_of(found: Found) -> bytes:
    return b"" if found.piece is None else found.piece.data


def rest_of(found: Found) -> bytes:
    return b"" if found.rest is None else found.rest.data


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.jsonl"


def test_returns_each_whole_line_once_with_its_number(path: Path) -> None:
    follower = Follower(path)
    assert follower.look().absent == MISSING
    write(path, b'{"a": 1}\n{"a": 2}\n')
    found = follower.look()
    assert found.piece is not None
    assert (found.piece.line, found.piece.data, found.anew) == (1, b'{"a": 1}\n{"a": 2}\n', "")
    assert data_of(follower.look()) == b""
    write(path, b'{"a": 3}\n')
    found = follower.look()
    assert found.piece is not None
    assert (found.piece.line, found.piece.data) == (3, b'{"a": 3}\n')


def test_waits_for_the_rest_of_a_torn_line(path: Path) -> None:
    follower = Follower(path)
    write(path, b'{"a": 1}\n{"a"')
    found = follower.look()
    assert (data_of(found), rest_of(found), found.behind) == (b'{"a": 1}\n', b'{"a"', 0)
    write(path, b": 2")
    found = follower.look()
    assert (data_of(found), rest_of(found)) == (b"", b'{"a": 2')
    write(path, b"}\n{")
    found = follower.look()
    assert (data_of(found), rest_of(found), found.anew) == (b'{"a": 2}\n', b"{", "")


def test_a_fragment_that_a_resumed_run_removes_is_no_new_file(path: Path) -> None:
    follower = Follower(path)
    write(path, b'{"a": 1}\n{"step": 17, "tim')
    follower.look()
    os.truncate(path, 9)
    write(path, b'{"a": 2}\n')
    found = follower.look()
    assert (data_of(found), found.anew) == (b'{"a": 2}\n', "")


@pytest.mark.parametrize("again", [b'{"b": 1}\n', b'{"b": 1}\n{"b": 2}\n{"b": 3}\n{"b": 4}\n'], ids=["less", "more"])
def test_begins_anew_where_the_file_is_emptied_and_written_again(again: bytes, path: Path) -> None:
    """As `copytruncate` does: the file stays the same, and may be longer by the time we look."""
    write(path, b'{"a": 1}\n{"a": 2}\n{"a": 3}\n')
    follower = Follower(path)
    follower.look()
    write(path, again, "r+b")
    os.truncate(path, len(again))
    found = follower.look()
    assert found.piece is not None
    assert (found.piece.line, found.piece.data) == (1, again)
    assert found.anew == (CUT if len(again) < 27 else REPLACED)


def test_begins_anew_where_the_file_is_moved_away(path: Path) -> None:
    write(path, b'{"a": 1}\n')
    follower = Follower(path)
    follower.look()
    path.rename(path.with_suffix(".1"))
    assert follower.look().absent == GONE
    assert follower.look().absent == GONE
    write(path, b'{"a": 1}\n{"b": 2}\n')  # begins as the other did
    found = follower.look()
    assert (data_of(found), found.anew) == (b'{"a": 1}\n{"b": 2}\n', REPLACED)
    assert follower.look().anew == ""


def test_begins_anew_where_another_file_takes_the_name(path: Path) -> None:
    write(path, b'{"a": 1}\n')
    follower = Follower(path)
    follower.look()
    other = path.with_name("other")
    write(other, b'{"a": 1}\n{"b": 2}\n')
    other.replace(path)
    found = follower.look()
    assert (data_of(found), found.anew) == (b'{"a": 1}\n{"b": 2}\n', REPLACED)


def test_reads_a_large_file_in_pieces_and_says_how_far_it_is(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "SIZE", 64)
    lines = [b'{"a": %d}\n' % i for i in range(100)] + [b'{"a": "%s"}\n' % (b"x" * 200)]
    write(path, b"".join(lines))
    follower = Follower(path)
    pieces: list[bytes] = []
    numbers: list[int] = []
    while True:
        found = follower.look()
        assert found.piece is not None
        pieces.append(found.piece.data)
        numbers.append(found.piece.line)
        assert found.reached == sum(map(len, pieces))
        if not found.behind:
            break
    assert b"".join(pieces) == b"".join(lines)
    assert max(map(len, pieces[:-1])) <= 64
    assert numbers == [1 + b"".join(pieces[:i]).count(b"\n") for i in range(len(pieces))]


def test_a_byte_order_mark_is_left_out(path: Path) -> None:
    write(path, b'\xef\xbb\xbf{"a": 1}\n')
    follower = Follower(path)
    assert data_of(follower.look()) == b'{"a": 1}\n'
    write(path, b'{"a": 2}\n')
    found = follower.look()
    assert (data_of(found), found.anew) == (b'{"a": 2}\n', "")


@pytest.mark.parametrize("nothing", [b"", b"\n", b" \r\n\n"])
def test_a_file_with_nothing_in_it_yet_is_waited_for(nothing: bytes, path: Path) -> None:
    write(path, nothing)
    follower = Follower(path)
    assert data_of(follower.look()) == nothing
    write(path, b'{"a": 1}\n')
    found = follower.look()
    assert found.piece is not None
    assert (found.piece.line, found.piece.data) == (1 + nothing.count(b"\n"), b'{"a": 1}\n')


def test_a_line_without_end_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "SIZE", 64)
    monkeypatch.setattr(follow, "LONGEST_LINE", 1000)
    write(path, b'{"a": 1}\n' + b"{" * 2000)
    follower = Follower(path)
    follower.look()
    with pytest.raises(ReadError, match="line 2: the line is longer than 64 MiB"):
        follower.look()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"step,grad_norm\n1,2.0\n", "only JSON Lines can be watched"),
        (b"\x1f\x8b\x08\x00", "compressed"),
        (b"\xff\xfe{\x00", "UTF-16"),
        (b"\x00\x01\x02\x03", "binary"),
    ],
)
def test_other_files_are_refused(data: bytes, words: str, path: Path) -> None:
    write(path, data)
    with pytest.raises(ReadError, match=words):
        Follower(path).look()


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match="is a folder. Name a file"):
        Follower(tmp_path).look()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_a_pipe_is_refused_and_not_waited_for(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(ReadError, match="it is no file"):
        Follower(path).look()
