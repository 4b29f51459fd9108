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
from gradclip.ops.triton.launch import Call, launch
from gradclip.ops.triton.recording import Count, Graph, Leaf, Node

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
class Kernels:
    """What a graph comes to. A run has memory: leaves, constants, what it makes, and a row of all single numbers.

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
        single = [x for x in ends if x.shape == () and x.dtype == torch.float64 and x not in columns]
        made = [*columns, *(x for x in ends if x not in single and x not in columns)]

        self._constants: list[Tensor] = [x.given[0] for x in constants]
        self._made = [(x.shape, x.dtype) for x in made]
        places = {x: x.given[0] for x in given if x.name == "input"}
        places |= {x: leaves + i for i, x in enumerate([*constants, *made])}
        self._numbers = {x: i for i, x in enumerate(single)}
        row = leaves + len(constants) + len(made)
        self._places = places | dict.fromkeys(single, row)
        returned = places | {x: row + 1 + i for i, x in enumerate(single)}
        self._returned = [returned[x] if isinstance(x, Node) else row for x in graph.outputs]
        self._others = [(i, x) for i, x in enumerate(graph.outputs) if not isinstance(x, Node)]
        self._steps = [self._step(columns, given, of_columns=True)] if columns else []
        if rest := [x for x in ends if x not in columns]:
            self._steps.append(self._step(rest, [*given, *columns], of_columns=False))

    def __call__(self, leaves: Sequence[Leaf], device: torch.device) -> list[Any]:
        """Return what the rule returns for these leaves, in new memory."""
        calls, returned = self.prepared(leaves, device)
        launch(calls, device)
        return returned

    def prepared(self, leaves: Sequence[Leaf], device: torch.device) -> tuple[list[Call], list[Any]]:
        """Return the launches, and what will have been returned after them."""
        made = [torch.empty(shape, dtype=dtype, device=device) for shape, dtype in self._made]
        row = torch.empty(len(self._numbers), dtype=torch.float64, device=device)
        memory: list[Any] = [
            *(x.contiguous() if isinstance(x, Tensor) else x for x in leaves),
            *self._constants,
            *made,
            row,
            *row.unbind(),
        ]
        calls = [
            Call(kernel, programs, tuple([memory[i] for i in places]), WARPS, {"BLOCK": BLOCK}, fused=False)
            for kernel, programs, places in self._steps
        ]
        returned = [memory[i] for i in self._returned]
        for i, x in self._others:
            returned[i] = leaves[x.place] + x.more if isinstance(x, Count) else x
        return calls, returned

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
