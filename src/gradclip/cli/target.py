"""The files that commands write: regular ones, whole or not at all, and only in place of what may be replaced."""

import contextlib
import os
import secrets
import stat
from collections.abc import Generator, Sequence
from pathlib import Path

from gradclip.cli import UserError

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}
"""What there may be in the place of a file."""


def check(option: str, out: Path, *, sources: Sequence[Path] = (), source: str = "", force: bool = False) -> None:
    """Say before any work is done that a file cannot be written, or that something would be lost.

    Args:
        option: The option that names the file, for messages.
        out: The file; a link stands for what it leads to.
        sources: Files that are read, and never replaced.
        source: What one of these is called.
        force: Whether to replace a file that is there.

    Raises:
        UserError: If there is something else than a file, or a file that is not to be replaced; if its folder is
            missing, or may not be written to.
    """
    with said_of(option, out):
        there = _stat(out)
        if there is not None and not stat.S_ISREG(there.st_mode):
            raise UserError(f"{option} {out} is {KINDS.get(stat.S_IFMT(there.st_mode), 'no file')}. Name a file.")
        if there is not None and any(path.exists() and out.samefile(path) for path in sources):
            raise UserError(f"{option} {out} is {source}. Name another file.")
        if there is not None and not force:
            raise UserError(f"{option} {out} exists. Pass --force to overwrite it.")
        real = Path(os.path.realpath(out))
        if not real.parent.is_dir():
            raise UserError(f"{option} {out}: there is no folder {out.parent}. Make it first.")
        if not os.access(real.parent, os.W_OK) or not os.access(real if there else real.parent, os.W_OK):
            raise UserError(f"{option} {out} may not be written. Name a file in a folder of yours.")


def write(option: str, out: Path, data: bytes, *, force: bool = False) -> None:
    """Write a file in one piece: what was there before stays whole until the new one is, and lends it its permissions.

    Raises:
        UserError: If it cannot be written, or by now is what `check` would refuse.
    """
    check(option, out, force=force)
    real = Path(os.path.realpath(out))
    beside = real.with_name(f".{real.name[:40]}-{secrets.token_hex(4)}")
    with said_of(option, out):
        try:
            with beside.open("xb") as file:
                file.write(data)
            if (there := _stat(real)) is not None:
                beside.chmod(stat.S_IMODE(there.st_mode))
                with contextlib.suppress(OSError, AttributeError):  # only root may give files away
                    os.chown(beside, there.st_uid, there.st_gid)
            beside.replace(real)
        finally:
            beside.unlink(missing_ok=True)


@contextlib.contextmanager
def said_of(option: str, out: Path) -> Generator[None, None, None]:
    """Say in one line why something cannot be done with a file."""
    try:
        yield
    except OSError as error:
        first = error.__cause__ if isinstance(error.__cause__, OSError) else error  # `JSONLines` says more, for Python
        raise UserError(f"{option} {out}: {first.strerror}. Name a file that can be written.") from error


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None
