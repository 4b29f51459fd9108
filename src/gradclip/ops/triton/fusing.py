"""A graph of torch's operations as one kernel, or as two, where it asks for what goes down the columns of a matrix.

A value is computed where it is asked for, so that one kernel makes all outputs; what goes down a column takes a program
for each, and is in memory before.
"""

import linecache
from collections.abc import Sequence
from functools import cache
from itertools import count
from typing import Any, NamedTuple, final

import torch
import triton
import triton.language as tl
from torch import Tensor

from gradclip.ops.triton import ordering
from gradclip.ops.triton.emitting import At, Body, is_of_columns, sources_of
from gradclip.ops.triton.lane import AT_ONCE, Lane, lane_of
from gradclip.ops.triton.launch import Call, launch
from gradclip.ops.triton.recording import Graph, Leaf, Node
from gradclip.ops.triton.sheet import Sheet, sheet_of

BLOCK, WARPS = 256, 4

_NUMBERS = count()
"""Those of kernels: two threads may each make one at a time."""

CALLED = ("number", "in_order", "larger", "smaller", "smaller_known")
"""What kernels call."""


class Step(NamedTuple):
    """A kernel, how many programs it has, and which memory it is given: places among all that a run has."""

    kernel: Any
    programs: int
    places: list[int]


@final
class Room(NamedTuple):
    """Memory for what a run makes one of: a row for each dtype, and the numbers in these."""

    rows: tuple[Tensor, ...]
    numbers: list[Tensor]


@final
class Kernels:
    """What a graph comes to. A run has memory: leaves, constants, what it makes, and rows of what there is one of.

    Args:
        graph: The graph.
        leaves: How many it is given.
    """

    def __init__(self, graph: Graph, leaves: int) -> None:
        outputs = list(dict.fromkeys(x for x in graph.outputs if isinstance(x, Node)))
        ends = [x for x in outputs if not _is_given(x)]
        columns = [x for x in sources_of(ends, lambda x: is_of_columns(x) or _is_given(x)) if is_of_columns(x)]
        given = [x for x in sources_of([*outputs, *columns], _is_given) if _is_given(x)]
        constants = [x for x in given if x.name == "constant"]
        single = [x for x in ends if x.shape == () and x not in columns]
        made = [*columns, *(x for x in ends if x not in single and x not in columns)]
        rows = {dtype: [x for x in single if x.dtype == dtype] for dtype in dict.fromkeys(x.dtype for x in single)}

        self._constants: list[Tensor] = [x.given[0] for x in constants]
        self._made = [(x.shape, x.dtype) for x in made]
        self._rows = [(len(own), dtype) for dtype, own in rows.items()]
        places = {x: x.given[0] for x in given if x.name == "input"}
        places |= {x: leaves + i for i, x in enumerate([*constants, *made])}
        self._numbers = {x: i for own in rows.values() for i, x in enumerate(own)}
        first = leaves + len(constants) + len(made)
        self._places = places | {x: first + i for i, own in enumerate(rows.values()) for x in own}
        numbers = (x for own in rows.values() for x in own)
        returned = places | {x: first + len(rows) + i for i, x in enumerate(numbers)}
        self._returned = [returned[x] if isinstance(x, Node) else 0 for x in graph.outputs]
        self._others = [(i, x) for i, x in enumerate(graph.outputs) if not isinstance(x, Node)]
        self._steps = [self._step(columns, given, of_columns=True)] if columns else []
        if rest := [x for x in ends if x not in columns]:
            self._steps.append(self._step(rest, [*given, *columns], of_columns=False))

        passed = sorted({place for step in self._steps for place in step.places})
        self._passed = passed
        self._blanks = [
            (launch, argument, passed.index(place))
            for launch, step in enumerate(self._steps)
            for argument, place in enumerate(step.places)
        ]
        self._lane: Lane | None = None
        self._sheet: Sheet | None = None
        self._rooms: list[Room] = []

    def __call__(self, leaves: Sequence[Leaf], device: torch.device) -> list[Any]:
        """Return what the rule returns for these leaves, in new memory."""
        lane = lane_of(device)
        if lane is None or lane is not self._lane:  # what is kept is of one stream
            self._lane, self._sheet = lane, None
            self._rooms.clear()
        memory = self._memory(leaves, device)
        if self._sheet is not None:
            self._sheet.launch([memory[place].data_ptr() for place in self._passed])
        else:
            calls = self._calls(memory)
            launch(calls, device)
            self._sheet = sheet_of(calls, lane, self._blanks)
        returned = [memory[i] for i in self._returned]
        for i, x in self._others:
            returned[i] = x
        return returned

    def _memory(self, leaves: Sequence[Leaf], device: torch.device) -> list[Any]:
        if not self._rooms:
            self._rooms = self._more_rooms(device, 1 if self._lane is None else AT_ONCE)
        rows, numbers = self._rooms.pop()
        made = [torch.empty(shape, dtype=dtype, device=device) for shape, dtype in self._made]
        return [
            *(x.contiguous() if isinstance(x, Tensor) else x for x in leaves),
            *self._constants,
            *made,
            *rows,
            *numbers,
        ]

    def _more_rooms(self, device: torch.device, count: int) -> list[Room]:
        with torch.inference_mode(mode=False):  # or they were of that mode outside too
            rows = [torch.empty((count, width), dtype=dtype, device=device).unbind() for width, dtype in self._rows]
            each = zip(*rows, strict=True) if rows else [()]
            return [Room(own, [x for row in own for x in row.unbind()]) for own in each]

    def _calls(self, memory: Sequence[Any]) -> list[Call]:
        return [
            Call(kernel, programs, tuple([memory[i] for i in places]), WARPS, {"BLOCK": BLOCK}, fused=False)
            for kernel, programs, places in self._steps
        ]

    def _step(self, wanted: list[Node], known: list[Node], *, of_columns: bool) -> Step:
        """Return the kernel that computes some nodes from others that are in memory."""
        read = [x for x in sources_of(wanted, known.__contains__) if x in known]
        body = Body({x: f"p{self._places[x]}" for x in read}, of_columns=of_columns)
        body.line("pid = tl.program_id(0)")
        body.line("lanes = tl.arange(0, BLOCK)")
        body.numbers_of(wanted)
        block = 1 if of_columns else BLOCK
        for size in dict.fromkeys(x.numel for x in wanted):
            index = "pid" if of_columns or size == 1 else body.named("pid * BLOCK + lanes")
            inside = body.named(f"{index} < {size}")
            at = At(body.named(f"tl.minimum(pid, {size - 1})"), "True") if of_columns else At(index, inside)
            for x in (x for x in wanted if x.numel == size):
                offset = self._numbers.get(x, 0) if size == 1 else index
                body.line(f"tl.store(p{self._places[x]} + {offset}, {body.value(x, at)}, mask={inside})")
        dtypes = {self._places[x]: x.dtype for x in (*read, *wanted)}
        kernel = kernel_of(tuple(f"p{place}" for place in dtypes), tuple(dtypes.values()), tuple(body.lines))
        return Step(kernel, max(1, *(-(-x.numel // block) for x in wanted)), list(dtypes))


def _is_given(node: Node) -> bool:
    return node.name in {"input", "constant"}


@cache
def kernel_of(arguments: tuple[str, ...], dtypes: tuple[torch.dtype, ...], lines: tuple[str, ...]) -> Any:  # noqa: ARG001
    """Return a kernel of these lines, which Triton asks Python for: by the name of a file that is not there.

    The same lines for memory of other dtypes are another kernel: what the driver launches is compiled for one.
    """
    text = f"def rule({', '.join(arguments)}, BLOCK: tl.constexpr):\n" + "\n".join(lines) + "\n"
    name = f"<gradclip rule {next(_NUMBERS)}>"
    linecache.cache[name] = len(text), None, text.splitlines(keepends=True), name
    space: dict[str, Any] = {"tl": tl, "__name__": __name__, **{name: getattr(ordering, name) for name in CALLED}}
    exec(compile(text, name, "exec"), space)  # noqa: S102 -- of our own
    return triton.jit(do_not_specialize=arguments, do_not_specialize_on_alignment=arguments)(space["rule"])
