"""From a graph of torch's operations to lines of Triton.

A value is computed where it is asked for, from what is in memory, and again elsewhere: nothing is handed on between
programs, so that one kernel does for any rule. What there is one of, each program computes.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, final

import torch

from gradclip.ops.triton.formulas import ARITHMETIC, COMPARISONS, DTYPES, FILLED, LOGIC, PLAIN, WRITTEN, literal, widest
from gradclip.ops.triton.recording import VIEWS, Node, NoKernelError

MOST_ROWS = 4096
"""The longest column that a program holds in its registers."""


class At(NamedTuple):
    """Where in a tensor a value is asked for: the name of an index, or of many, and of whether it is inside."""

    index: str
    inside: str


FIRST = At("0", "True")


def is_of_columns(node: Node) -> bool:
    """Whether a value needs a program for each column of a matrix, or for a vector."""
    return node.name == "gather" or (node.name == "sum" and node.numel > 1)


def sources_of(nodes: Iterable[Node], is_end: Callable[[Node], bool]) -> list[Node]:
    """Return all that nodes are made of, and these, in an order in which they can be computed."""
    found: dict[Node, None] = {}

    def visit(node: Node) -> None:
        if node not in found:
            for x in () if is_end(node) else node.operands():
                visit(x)
            found[node] = None

    for node in nodes:
        visit(node)
    return list(found)


@final
class Body:
    """The lines of a kernel.

    Args:
        memory: The names of the arguments that hold nodes in memory.
        of_columns: Whether it may compute what goes down a column.
    """

    def __init__(self, memory: dict[Node, str], *, of_columns: bool) -> None:
        self.lines: list[str] = []
        self._memory = memory
        self._of_columns = of_columns
        self._indent = "    "
        self._names: dict[tuple[Node, At | None], str] = {}
        self._columns: dict[tuple[int, int, str], At] = {}
        self._is_in_column = False
        self._count = 0

    def line(self, text: str) -> None:
        """Add a line."""
        self.lines.append(self._indent + text)

    def named(self, text: str) -> str:
        """Add a line that names a value, and return the name."""
        self._count += 1
        self.line(f"v{self._count} = {text}")
        return f"v{self._count}"

    def numbers_of(self, nodes: Iterable[Node]) -> None:
        """Name what there is one of, before the loops that use it, out of which no name comes."""
        for node in sources_of(nodes, self._memory.__contains__):
            if node.numel == 1 and (self._of_columns or node in self._memory or not is_of_columns(node)):
                self.value(node, None)

    def value(self, node: Node, at: At | None) -> str:
        """Return the name of a value, at a place where there are many."""
        at = None if node.numel == 1 else at or FIRST
        if (node, at) not in self._names:
            argument = self._memory.get(node)
            found = self._computed(node, at) if argument is None else _loaded(argument, at)
            self._names[node, at] = found if found.isidentifier() else self.named(found)
        return self._names[node, at]

    def _computed(self, node: Node, at: At | None) -> str:
        name, given = node.name, node.given
        if node.dtype not in (WRITTEN if name == "_to_copy" else DTYPES):
            raise NoKernelError(f"numbers of {node.dtype}")
        if name in VIEWS and node.dtype == given[0].dtype:
            return self.value(given[0], at)
        if name in FILLED:
            filled = FILLED[name]
            return literal(given[filled] if isinstance(filled, int) else filled, node.dtype)
        formula, dtype = ARITHMETIC.get(name), node.dtype
        if name in COMPARISONS:
            formula, dtype = COMPARISONS[name], widest(given)
        elif dtype == torch.bool:
            formula = LOGIC.get(name)
        if formula is not None and set(node.named) <= PLAIN and f"{{{len(given) - 1}}}" in formula:
            return formula.format(*(self._operand(x, node, at, dtype) for x in given))
        if (own := getattr(self, f"_{name}", None)) is None:
            raise NoKernelError(f"{name} of {node.dtype}, {node.named}")
        return own(node, at, *given, **node.named)

    def _operand(self, x: Any, of: Node, at: At | None, dtype: torch.dtype) -> str:
        """Return a number or a value, of a row for all rows, in a dtype."""
        if not isinstance(x, Node):
            return literal(x, dtype)
        if x.numel not in {1, of.numel}:
            if at is None or not x.shape[-1] == x.numel == of.shape[-1]:
                raise NoKernelError(f"a tensor of {x.shape} with one of {of.shape}")
            at = At(self.named(f"{at.index} % {x.numel}"), at.inside)
        found = self.value(x, at)
        if dtype == torch.bool and x.numel < of.numel and at is not None:  # of which the interpreter makes no block
            return f"({found}.to(tl.int32) > {at.index} * 0)"
        return found if x.dtype == dtype else f"{found}.to({WRITTEN[dtype]})"

    # Choices.

    def _where(self, node: Node, at: At | None, condition: Any, yes: Any, no: Any) -> str:
        chosen = [self._operand(x, node, at, node.dtype) for x in (yes, no)]
        return f"tl.where({self._operand(condition, node, at, torch.bool)}, {chosen[0]}, {chosen[1]})"

    def _masked_fill(self, node: Node, at: At | None, x: Any, condition: Any, number: Any) -> str:
        return self._where(node, at, condition, number, x)

    def _clamp(self, node: Node, at: At | None, x: Any, least: Any = None, most: Any = None) -> str:
        found = self._operand(x, node, at, node.dtype)
        if least is not None:
            found = f"larger({found}, {self._operand(least, node, at, node.dtype)})"
        return found if most is None else f"smaller({found}, {self._operand(most, node, at, node.dtype)})"

    def _pow(self, node: Node, at: At | None, x: Any, exponent: Any) -> str:
        if exponent != 2.0:  # noqa: PLR2004
            raise NoKernelError(f"the power of {exponent}")
        found = self._operand(x, node, at, node.dtype)
        return f"{found} * {found}"

    # Other places.

    def _select(self, node: Node, at: At | None, x: Node, dim: int, place: int) -> str:
        return self._slice(node, at, x, dim, place)

    def _slice(self, node: Node, at: At | None, x: Node, dim: int = 0, start: int | None = 0, *_: Any) -> str:
        start = start or 0
        if (
            dim != 0
            or start < 0
            or node.numel not in {x.numel - start * (x.numel // x.shape[0]), x.numel // x.shape[0]}
        ):
            raise NoKernelError("a part that is not the rest")
        if start == 0:
            return self.value(x, at)
        offset = start * (x.numel // x.shape[0])
        at = at or FIRST
        return self.value(x, At(self.named(f"{at.index} + {offset}"), at.inside))

    def _cat(self, node: Node, at: At | None, parts: list[Node], dim: int = 0) -> str:
        if dim != 0:
            raise NoKernelError("columns beside each other")
        at, found, offset = at or FIRST, "", 0
        for part in parts:
            here = self.named(f"({at.index} >= {offset}) & ({at.index} < {offset + part.numel}) & {at.inside}")
            own = self.value(part, At(self.named(f"{at.index} - {offset}"), here))
            found = f"tl.where({here}, {own}, {found})" if found else own
            offset += part.numel
        return found

    def _index(self, node: Node, at: At | None, x: Node, places: list[Node]) -> str:
        (place,) = places
        if len(x.shape) != 1:
            raise NoKernelError("places in a matrix")
        found = self.value(place, at)
        found = self.named(f"tl.where({found} < 0, {found} + {x.numel}, {found})")
        return self.value(x, At(found, (at or FIRST).inside))

    def _scatter(self, node: Node, at: At | None, old: Node, new: Node, back: Node) -> str:
        place = self.value(back, at)
        is_new = self.named(f"{place} >= 0")
        written = self.value(new, At(place, self.named(f"{is_new} & {(at or FIRST).inside}")))
        return f"tl.where({is_new}, {written}, {self._operand(old, node, at, node.dtype)})"

    # What becomes of many.

    def _sum(self, node: Node, at: At | None, x: Node, dims: Any = None, **_: Any) -> str:
        if node.numel > 1:
            if list(dims or ()) != [0]:
                raise NoKernelError(f"a sum over {dims}")
            rows, own = self._column(x, at)
            return f"tl.sum(tl.where({rows.inside}, {own}, 0).to({DTYPES[node.dtype]}))"
        return f"tl.sum({self._over(x, node.dtype, 0, lambda acc, own: f'{acc} + {own}')})"

    def _amax(self, node: Node, at: At | None, x: Node, dims: Any = None) -> str:
        if x.numel == 1:
            return self.value(x, None)
        if node.numel > 1 or node.dtype != torch.float64:
            raise NoKernelError("the largest of each row")
        return (
            f"tl.reduce({self._over(x, node.dtype, -torch.inf, lambda acc, own: f'larger({acc}, {own})')}, 0, larger)"
        )

    def _linalg_vector_norm(self, node: Node, at: At | None, x: Node, order: float = 2.0, *_: Any) -> str:
        if order != 2.0 or node.numel > 1:  # noqa: PLR2004
            raise NoKernelError(f"norms of order {order}")
        return f"tl.sqrt(tl.sum({self._over(x, node.dtype, 0, lambda acc, own: f'{acc} + {own} * {own}')}))"

    def _over(self, x: Node, dtype: torch.dtype, identity: float, add: Callable[[str, str], str]) -> str:
        """Go over all of a tensor; return the name of what its lanes have added up."""
        acc = self.named(f"tl.zeros((BLOCK,), {DTYPES[dtype]}) + {literal(identity, dtype)}")
        start = f"o{self._count}"
        self.line(f"for {start} in range(0, {x.numel}, BLOCK):")
        self._indent += "    "
        index = self.named(f"{start} + lanes")
        at = At(index, self.named(f"{index} < {x.numel}"))
        own = self.named(self._operand(x, x, at, dtype))
        self.line(f"{acc} = tl.where({at.inside}, {add(acc, own)}, {acc})")
        self._indent = self._indent[:-4]
        return acc

    def _gather(self, node: Node, at: At | None, x: Node, dim: int, places: Node) -> str:
        if x.name != "sort" or dim != 0 or x.given[1:] != (0,) or places.shape[0] != 1:
            raise NoKernelError("places down a column that is not in order, or several")
        rows, own = self._column(x.given[0], at)
        return f"in_order({own}, {rows.inside}, {self.value(places, at)})"

    def _column(self, x: Node, at: At | None) -> tuple[At, str]:
        """Return the places of a column, and its numbers."""
        count, width = x.shape[0], x.numel // x.shape[0]
        if not self._of_columns or count > MOST_ROWS or self._is_in_column:
            raise NoKernelError("a column here")
        place = count, width, (at or FIRST).index
        if place not in self._columns:
            row = self.named(f"tl.arange(0, {1 << (count - 1).bit_length()})")
            inside = self.named(f"{row} < {count}")
            self._columns[place] = At(self.named(f"{row} * {width} + {place[-1]}"), inside)
        self._is_in_column = True
        own = self.value(x, self._columns[place])
        self._is_in_column = False
        return self._columns[place], own


def _loaded(argument: str, at: At | None) -> str:
    return f"tl.load({argument})" if at is None else f"tl.load({argument} + {at.index}, mask={at.inside}, other=0)"
