"""The text to train on, as numbered symbols."""

import math
from pathlib import Path
from typing import NamedTuple, final

import torch
from torch import Tensor

from gradclip.cli import UserError

FEWEST, MOST = 10_000, 5_000_000
"""Characters of a text: of fewer, a stream would be shorter than one step back; no more are read of a longer file."""

EVERY, STRETCH = 10, 2_000
"""One of so many stretches is kept for validation; each has about so many characters, or a tenth of a short text."""


@final
class Corpus(NamedTuple):
    """A text as numbers.

    Attributes:
        source: Where the text is from, in words.
        symbols: Every character that occurs, once, sorted.
        training: Nine tenths of the text, as int64 positions in `symbols`.
        validation: The other tenth, which no step sees: stretches spread evenly over the text.
    """

    source: str
    symbols: str
    training: Tensor
    validation: Tensor

    @property
    def characters(self) -> int:
        """How many there are in the text."""
        return len(self.training) + len(self.validation)

    @property
    def guessing_bits(self) -> float:
        """The loss of giving every symbol the same probability, in bits per character."""
        return math.log2(len(self.symbols))


def load(path: Path | None) -> Corpus:
    """Read a UTF-8 file, or where none is given, the help on Python's language, a part of its standard library.

    Raises:
        UserError: If there is no such text, or it cannot be trained on.
    """
    try:
        if path is None:
            from pydoc_data.topics import topics  # noqa: PLC0415 -- some distributions leave it out

            return encode("\n\n".join(topics.values()), "Python's own documentation")
        with path.open(encoding="utf-8-sig") as file:
            return encode(file.read(MOST), str(path))
    except ImportError:
        raise _refusal("FILE", "is needed: this Python comes without its documentation") from None
    except UnicodeDecodeError:
        raise _refusal(path, "is not UTF-8 text") from None
    except OSError as error:
        raise _refusal(path, f"cannot be read ({error.strerror})") from None


def encode(text: str, source: str) -> Corpus:
    """Number the symbols of a text.

    Raises:
        UserError: If it is too short, no text, or one symbol over and over.
    """
    if len(text) < FEWEST:
        raise _refusal(source, f"has {len(text):,} characters")
    if "\0" in text:
        raise _refusal(source, "is binary")
    symbols, characters = torch.tensor(list(map(ord, text))).unique(return_inverse=True)
    if len(symbols) == 1:
        raise _refusal(source, "repeats one symbol")
    stretches = characters.tensor_split(EVERY * max(1, len(text) // (EVERY * STRETCH)))
    training = torch.cat([stretch for i, stretch in enumerate(stretches, start=1) if i % EVERY])
    beginning = "the beginning of " if len(text) == MOST else ""
    return Corpus(beginning + source, "".join(map(chr, symbols)), training, torch.cat(stretches[EVERY - 1 :: EVERY]))


def _refusal(path: object, reason: str) -> UserError:
    return UserError(f"--text {path} {reason}. Give a plain UTF-8 text of {FEWEST:,} characters or more, as of a book.")
