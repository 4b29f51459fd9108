"""Standard input as a file that grows."""

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread

from gradclip.cli.watch.keys import Wait, polite_end


@contextmanager
def spooled() -> Generator[tuple[Path, Wait]]:
    """Copy standard input into a file for as long as a block goes on; what waits, waits for the end of the input."""
    with polite_end(), TemporaryDirectory(prefix="gradclip-") as folder:
        path = Path(folder, "run")
        thread = Thread(target=_copy, args=(path,), daemon=True)
        thread.start()

        def wait(seconds: float) -> bool:
            thread.join(seconds)
            return not thread.is_alive()

        yield path, wait


def _copy(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        while data := os.read(sys.stdin.fileno(), 2**16):
            file.write(data)
