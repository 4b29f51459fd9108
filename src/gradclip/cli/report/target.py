"""The file that a report goes into."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from gradclip.cli import UserError


def check_target(out: Path, sources: Sequence[Path], *, force: bool) -> None:
    """Say before any work is done that a file cannot be written, or would be lost.

    Raises:
        UserError: If it is there already and not to be overwritten, or is one of the sources; if its folder is missing,
            or may not be written to.
    """
    if out.is_dir():
        raise UserError(f"--out {out} is a folder. Name a file in it.")
    if out.exists() and any(source.exists() and out.samefile(source) for source in sources):
        raise UserError(f"--out {out} is one of the runs. Name another file.")
    if out.exists() and not force:
        raise UserError(f"--out {out} exists. Pass --force to overwrite it, or name another file.")
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}. Make it first, or name another.")
    if not os.access(out if out.exists() else out.parent, os.W_OK):
        raise UserError(f"--out {out} may not be written. Name a file in a folder of yours.")


def write(out: Path, page: str) -> int:
    """Write a page; what was there before stays whole until the new one is.

    Returns:
        Its size in bytes.

    Raises:
        UserError: If it cannot be written.
    """
    data = page.encode()
    try:
        handle, name = tempfile.mkstemp(dir=out.parent, prefix=f".{out.name[:40]}-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            Path(name).chmod(0o666 & ~_umask())
            Path(name).replace(out)
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"--out {out}: {error.strerror}. Name a file that can be written.") from error
    return len(data)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
