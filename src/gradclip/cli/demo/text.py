"""The text to train on, as numbered symbols."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from gradclip.cli import UserError

FEWEST, MOST = 10_000, 5_000_000
"""Characters of a text: of fewer, a stream would be shorter than one step back; no more are read of a longer file."""

EVERY, STRETCH = 10, 2_000
"""One of so many stretches is kept for validation; each has about so many characters, or a tenth of a short text."""


@final
@dataclass(frozen=True)
class Corpus:
    """A text as numbers, a tenth of which is kept for validation: stretches spread evenly over it.

    Attributes:
        source: Where the text is from, in words.
        symbols: Every character that occurs, once, sorted.
        characters: The text, as int64 positions in `symbols`.
    """

    source: str
    symbols: str
    characters: Tensor

    @property
    def training(self) -> Tensor:
        """The nine tenths that are trained on, put together."""
        return torch.cat([stretch for i, stretch in enumerate(self._stretches(), start=1) if i % EVERY])

    @property
    def validation(self) -> Tensor:
        """Every tenth stretch, put together, which no step sees."""
        return torch.cat(self._stretches()[EVERY - 1 :: EVERY])

    @property
    def guessing_bits(self) -> float:
        """The loss of giving every symbol the same probability, in bits per character."""
        return math.log2(len(self.symbols))

    def _stretches(self) -> tuple[Tensor, ...]:
        return self.characters.tensor_split(EVERY * max(1, len(self.characters) // (EVERY * STRETCH)))


def load(path: Path | None) -> Corpus:
    """Read a UTF-8 file, or Python's own documentation where none is given.

    Raises:
        UserError: If there is no such text, or it cannot be trained on.
    """
    return encode(documentation(), "Python's own documentation") if path is None else encode(_read(path), str(path))


def documentation() -> str:
    """Return the help on Python's language, which is part of its standard library.

    Raises:
        UserError: If this Python comes without it.
    """
    try:
        from pydoc_data.topics import topics  # noqa: PLC0415 -- some distributions leave it out
    except ImportError:
        message = (
            "this Python comes without its documentation (pydoc_data.topics). "
            f"Give a plain UTF-8 text of {FEWEST:,} characters or more, such as a book: --text FILE."
        )
        raise UserError(message) from None
    return "\n\n".join(topics.values())


def encode(text: str, source: str) -> Corpus:
    """Number the symbols of a text.

    Raises:
        UserError: If the text is too short, or is one symbol over and over.
    """
    if not text:
        raise _refusal(source, "is empty", f"Give a text of {FEWEST:,} characters or more")
    if len(text) < FEWEST:
        raise _refusal(source, f"has {len(text):,} characters", f"Give a text of {FEWEST:,} or more")
    found, characters = torch.tensor(list(map(ord, text))).unique(return_inverse=True)
    if len(found) == 1:
        raise _refusal(source, "repeats one symbol", "Give a text with something to learn")
    beginning = "the beginning of " if len(text) == MOST else ""
    return Corpus(beginning + source, "".join(map(chr, found.tolist())), characters)


def _read(path: Path) -> str:
    try:
        with path.open(encoding="utf-8-sig") as file:
            text = file.read(MOST)
    except FileNotFoundError:
        raise _refusal(path, "does not exist", "Give the path of a UTF-8 text file") from None
    except UnicodeDecodeError:
        raise _refusal(path, "is not UTF-8 text", "Save it as plain text in UTF-8, or give another file") from None
    except OSError as error:
        if path.is_dir():
            raise _refusal(path, "is a folder", "Name one text file in it") from None
        raise _refusal(path, f"cannot be read ({error.strerror})", "Give a text file that can") from None
    if "\0" in text:
        raise _refusal(path, "is binary", "Give a plain text file")
    return text


def _refusal(path: object, reason: str, remedy: str) -> UserError:
    return UserError(f"--text {path} {reason}. {remedy}.")
