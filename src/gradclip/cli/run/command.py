"""Run a training script as it is, with torch's functions for clipping replaced: record what happens, clip by a rule."""

import atexit
import os
import runpy
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Annotated, Any, final

import typer

from gradclip.cli import UserError
from gradclip.cli.specs import HELP, explanation, parse
from gradclip.cli.target import said_of
from gradclip.policies import FixedNorm, Policy

if TYPE_CHECKING:
    from gradclip.cli.run.processes import PatchedProcesses
    from gradclip.records import JSONLines

SETTINGS = {"allow_interspersed_args": False}
"""What follows the script is its own."""

NOTHING = (
    "gradclip: no torch optimizer took a step with gradients, and no clipping function of torch was called. Nothing "
    "was recorded or clipped: optimizers that are not torch's are not reached.\n"
)

LAUNCHERS = {
    **dict.fromkeys(("torchrun", "torch.distributed.run", "torch.distributed.launch"), "torchrun"),
    **dict.fromkeys(("accelerate", "accelerate-launch", "accelerate.commands.launch"), "accelerate launch"),
}
"""Commands, and modules, that start scripts as other programs, by what a user calls them."""


def run(
    command: Annotated[list[str] | None, typer.Argument(metavar="SCRIPT [ARGS]...", show_default=False)] = None,
    *,
    module: Annotated[bool, typer.Option("-m", help="SCRIPT is a module, as for python -m.")] = False,
    record: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Append a record of every step to FILE, as JSON Lines.")
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(metavar="SPEC", help=f"Clip by this policy, not at the script's threshold; {HELP} lists them."),
    ] = None,
    max_norm: Annotated[float | None, typer.Option(metavar="X", help="Clip at this norm, not at the script's.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Show norm, threshold and clip rate while it runs.")] = False,
) -> Callable[[], int] | None:
    """Run a training script unchanged: clip exactly, record its norms, or clip it by a policy.

    Calls of torch.nn.utils.clip_grad_norm_ run gradclip's function. With --record, --watch, --policy or --max-norm,
    every optimizer step is recorded, or clipped, even if the script does not clip.
    """
    if policy == HELP:
        typer.echo("\n".join(explanation()))
        return None
    if policy is not None and max_norm is not None:
        raise UserError("--policy and --max-norm are two rules. Give one.")
    if not command:
        raise UserError("gradclip run needs a script: gradclip run SCRIPT ARGS, or gradclip run -m MODULE ARGS.")
    _check_script(command[0], is_module=module)
    named = None if policy is None else parse(policy)
    rule = None if named is None else named.policy
    if named is not None and named.lacks_ceiling and _is_first_rank():
        name, _, arguments = named.name.partition(":")
        more = f"{name}:{arguments}{',' if arguments else ''}max_norm=1.0"
        sys.stderr.write(
            f"gradclip: --policy {named.name} replaces the script's own bound and has no ceiling. "
            f"To set one: --policy {more}\n"
        )
    if max_norm is not None:
        rule = _bound(max_norm)
    is_temporary = watch and record is None
    sink = _sink(_temporary() if is_temporary else record)
    return Script(command, module, sink, rule, watch, is_temporary).run


def _is_first_rank() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _check_script(name: str, *, is_module: bool) -> None:
    """Check that there is a script, and one that can be read twice: `runpy` looks first whether it is compiled.

    What starts it as another program would run, with nothing recorded or clipped there.
    """
    path = Path(name)
    if (launcher := LAUNCHERS.get(name if is_module else path.name)) is not None and not path.is_dir():
        raise UserError(
            f"{name} starts other programs, which gradclip run does not reach. Have it start gradclip: "
            f"{launcher} ... -m gradclip run SCRIPT ARGS."
        )
    if is_module:
        return
    if not path.exists():
        raise UserError(f"{path}: there is no such script. Write -m where it is a module.")
    if not (path.is_file() or path.is_dir()):
        raise UserError(f"{path}: it is neither a file nor a folder. Write the script to a file and name that.")


def _bound(max_norm: float) -> Policy:
    if not max_norm >= 0.0:
        raise UserError(f"--max-norm must be >= 0, got {max_norm:g}. To record alone, leave it out.")
    return FixedNorm(max_norm)


def _temporary() -> Path:
    folder = tempfile.mkdtemp(prefix="gradclip-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder) / "run.jsonl"


def _sink(record: Path | None) -> "JSONLines | None":
    if record is None:
        return None
    from gradclip.records.jsonlines import START, JSONLines  # noqa: PLC0415 -- torch takes a second, --help needs none

    with said_of("--record", record):
        if record.is_file():
            with record.open("rb") as file:
                if not START.startswith(file.read(len(START))):
                    raise UserError(f"--record {record} holds something else than records. Name another file.")
        return JSONLines(record)


@final
@dataclass(frozen=True)
class Script:
    """A script that runs as Python would run it.

    Attributes:
        command: The script, or module, and its arguments.
        is_module: Which of both.
        sink: What takes the records, if anything.
        policy: The rule in place of that of the script, if there is one.
        is_watched: Whether the records are shown meanwhile.
        is_temporary: Whether nobody wants them afterwards.
    """

    command: list[str]
    is_module: bool
    sink: "JSONLines | None"
    policy: Policy | None
    is_watched: bool
    is_temporary: bool

    def run(self) -> int:
        """Run it: how it ends, it ends."""
        from gradclip.cli.run.processes import OfProcess, PatchedProcesses  # noqa: PLC0415

        patched = PatchedProcesses(self.policy, [] if self.sink is None else [OfProcess(self.sink)])
        ended_well = False
        with self._view():
            try:
                self._run()
                ended_well = True
            except BaseException as error:
                sys.excepthook = partial(_told_by_the_script, sys.excepthook)  # which may be the script's own
                ended_well = isinstance(error, SystemExit) and not error.code
                raise
            finally:
                others = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
                if any(not thread.daemon for thread in others):
                    atexit.register(self._end, patched, ended_well)  # Python waits for them before
                else:
                    self._end(patched, ended_well)
        return 0

    def _end(self, patched: "PatchedProcesses", ended_well: bool) -> None:  # noqa: FBT001 -- for `atexit`
        patched.end()
        if self.sink is not None:
            self.sink.close()
        if ended_well and patched.had_nothing_to_do and _is_first_rank():
            with suppress(AttributeError, OSError, ValueError):  # which the script may have closed
                sys.stderr.write(NOTHING)

    def _view(self) -> AbstractContextManager[None]:
        """Return what shows the records: of several ranks, those of the first, which writes them."""
        if not self.is_watched or self.sink is None or not _is_first_rank():
            return nullcontext()
        from gradclip.cli.run.beside import watched  # noqa: PLC0415 -- for this option alone

        return watched(self.sink.path, self.command[0] if self.is_temporary else None)

    def _run(self) -> None:
        name = self.command[0]
        first = os.getcwd() if self.is_module else str(Path(name).resolve().parent)  # noqa: PTH109 -- a string
        sys.path[:] = [first, *(sys.path[1:] if sys.path[:1] == [_own_place()] else sys.path)]
        sys.argv = list(self.command)
        main: Any = Main(None if self.is_module else name)
        try:
            if self.is_module:
                runpy.run_module(name, main, run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(str(Path(name).absolute()), main, run_name="__main__")
        finally:
            main.keep()


@final
class Main:
    """The module of a script, which stays `__main__` for its threads and what it does at exit, as Python has it.

    `runpy` puts back what was there before, and hands out no module. It takes names to add to one, and asks for them,
    as of any mapping, once the module is in place.

    Args:
        name: What the script calls itself, in place of its whole path, if anything.
    """

    def __init__(self, name: str | None) -> None:
        self._name = name
        self._module: ModuleType | None = None

    def keys(self) -> tuple[()]:
        """Return the names to add: none."""
        self._module = sys.modules["__main__"]
        if "__mp_main__" in sys.modules:  # by which processes that are spawned know the classes of a script
            sys.modules["__mp_main__"] = self._module
        if self._name is not None:
            sys.argv[0] = self._name
        return ()

    def __getitem__(self, name: str) -> object:
        """Return what a name stands for."""
        raise KeyError(name)

    def keep(self) -> None:
        """Have it be `__main__` from now on, if the script has begun."""
        if self._module is not None:
            sys.modules["__main__"] = self._module


def _own_place() -> str:
    """Return where Python looks for modules first, as it was started with `python -m gradclip`, or by a file."""
    main = sys.modules["__main__"]
    file = getattr(main, "__file__", None)
    if main.__spec__ is not None or file is None:
        return os.getcwd()  # noqa: PTH109 -- a string
    return str(Path(file).resolve().parent)


def _told_by_the_script(
    hook: Callable[[type[BaseException], BaseException, TracebackType | None], object],
    kind: type[BaseException],
    error: BaseException,
    trace: TracebackType | None,
) -> None:
    """Have an error printed as Python would, from the first line of the script on: where that cannot begin, no line."""
    start = trace
    while start is not None and start.tb_frame.f_code is not Script._run.__code__:
        start = start.tb_next
    if start is not None:
        trace = start.tb_next
        while trace is not None and "runpy" in trace.tb_frame.f_code.co_filename:
            trace = trace.tb_next
    error.__traceback__ = trace
    hook(kind, error, trace)
