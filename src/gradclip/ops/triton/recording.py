"""What a rule does to numbers of a device, recorded as a graph of torch's operations, of which none is done.

The rule runs once, on tensors that have shapes and no numbers. What it makes of other tensors alone is done at once,
and is a constant of the graph. Whatever would have to know a number raises.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias, final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gradclip.numbers import CPU

META = torch.device("meta")

VIEWS = {"view", "_unsafe_view", "reshape", "unsqueeze", "squeeze", "alias", "detach", "clone"}
"""What leaves the elements of a dense tensor, and their order, as they are."""

UNLAUNCHED = (VIEWS - {"clone"}) | {"slice", "select", "unbind", "split", "empty", "lift_fresh"}
"""What launches nothing on a device."""


@final
@dataclass(eq=False)
class Node:
    """One value of the graph: what it is made of, and how.

    Attributes:
        name: The operation, by its name in torch; `input` for what is given, and `constant` for a tensor that is known.
        given: What it is applied to: nodes, numbers, and lists of these; the place of an input, or the constant.
        named: What is given by name.
        shape: The shape of its value.
        dtype: The dtype.
    """

    name: str
    given: tuple[Any, ...]
    named: dict[str, Any]
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def numel(self) -> int:
        """How many numbers it has."""
        count = 1
        for size in self.shape:
            count *= size
        return count

    def operands(self) -> list["Node"]:
        """Return the nodes that it is made of."""
        listed = [x for own in self.given for x in (own if isinstance(own, (list, tuple)) else (own,))]
        return [x for x in listed if isinstance(x, Node)]


class NoKernelError(Exception):
    """A rule does what no kernel is made of: torch does it."""


Leaf: TypeAlias = Tensor | float
"""A number of a device, or many, or one of the host."""

Flat: TypeAlias = Callable[[list[Any]], tuple[list[Any], Any]]
"""A rule, from leaves to what it returns: leaves and other things in a list, and a template, which is kept."""


class Graph(NamedTuple):
    """A rule as a graph.

    Attributes:
        outputs: What it returns: nodes, and whatever is no number of the device.
        template: What else it returns.
        operations: How many operations torch would launch.
    """

    outputs: list[Any]
    template: Any
    operations: int


@final
@dataclass(eq=False)
class Recorder(TorchDispatchMode):
    """Sees every operation of torch.

    Attributes:
        device: Where numbers are.
        nodes: What is known of tensors, by their ids.
        kept: These tensors: another might get the id of one that is gone.
        constants: The memory of constants, which nobody may write.
        written: Memory whose numbers are not what it holds.
        operations: How many were seen that torch would launch.
    """

    device: torch.device
    nodes: dict[int, Node] = field(default_factory=dict)
    kept: list[Tensor] = field(default_factory=list)
    constants: set[int] = field(default_factory=set)
    written: set[int] = field(default_factory=set)
    operations: int = 0

    def __post_init__(self) -> None:
        super().__init__()

    def given(self, place: int, like: Tensor) -> Tensor:
        """Return what stands for an input."""
        if like.device != self.device or type(like) is not Tensor:
            raise NoKernelError(f"a tensor of {like.device}, of type {type(like).__name__}")
        node = Node("input", (place,), {}, tuple(like.shape), like.dtype)
        return self._known(torch.empty_like(like, device=META), node)

    def node_of(self, x: Tensor) -> Node:
        """Return the node of a tensor: of one that has numbers, a constant."""
        if (node := self.nodes.get(id(x))) is not None:
            return node
        if x.device == CPU and x.ndim == 0:  # a number that torch has wrapped
            number = torch.ops.aten._local_scalar_dense.default(x)
            return Node("full", ((), number), {}, (), x.dtype)
        if x.device != self.device or type(x) is not Tensor or _memory_of(x) in self.written:
            raise NoKernelError(f"a tensor of {x.device}, of type {type(x).__name__}")
        self.constants.add(_memory_of(x))
        self._known(x, Node("constant", (x.contiguous(),), {}, tuple(x.shape), x.dtype))
        return self.nodes[id(x)]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        listed = [x for own in args for x in (own if isinstance(own, (list, tuple)) else (own,))]
        tensors = [x for x in listed if isinstance(x, Tensor)]
        is_ours = any(id(x) in self.nodes and not self._is_constant(x) for x in tensors)
        name = func.name().partition("::")[2].partition(".")[0]
        self.operations += name not in UNLAUNCHED
        if not is_ours and torch.device(kwargs.get("device") or CPU) != META:
            if name.endswith("_") and _memory_of(args[0]) in self.constants:
                raise NoKernelError(f"{name} writes a constant")
            return func(*args, **kwargs)
        if "device" in kwargs:
            kwargs["device"] = META
        shapes = func(*_mapped(_as_shape, args), **kwargs)
        nodes = _mapped(lambda x: self.node_of(x) if isinstance(x, Tensor) else x, args)
        if name == "index_put_":  # of what was written, the numbers are others now
            storage = args[0].untyped_storage()
            if any(x is not args[0] and x.untyped_storage() is storage for x in self.kept):
                raise NoKernelError("a write that is seen through a view")
            self.written.add(_memory_of(args[0]))
            self._known(args[0], self._scattered(*nodes))
            return args[0]
        if name.endswith("_"):
            raise NoKernelError(f"{name} writes in place")
        first = shapes[0] if isinstance(shapes, (list, tuple)) else shapes
        self._known(first, Node(name, tuple(nodes), kwargs, tuple(first.shape), first.dtype))
        return shapes

    def _scattered(self, old: Node, indices: list[Node], new: Node, accumulate: bool = False) -> Node:  # noqa: FBT001, FBT002
        """Return numbers with others in some places, by the way back from each place to what is written there."""
        (places,) = indices
        if accumulate or places.name != "constant" or len(old.shape) != 1:
            raise NoKernelError("places that are not known")
        back = torch.full(old.shape, -1, dtype=torch.int64, device=self.device)
        back[places.given[0]] = torch.arange(places.numel, device=self.device)
        return Node("scatter", (old, new, self.node_of(self._kept(back))), {}, old.shape, old.dtype)

    def _is_constant(self, x: Tensor) -> bool:
        return self.nodes[id(x)].name == "constant"

    def _known(self, x: Tensor, node: Node) -> Tensor:
        self.nodes[id(x)] = node
        return self._kept(x)

    def _kept(self, x: Tensor) -> Tensor:
        self.kept.append(x)
        return x


def recorded(rule: Flat, leaves: Sequence[Leaf], device: torch.device) -> Graph:
    """Return a rule as a graph.

    Args:
        rule: The rule.
        leaves: What it would be given. Numbers of the host are those of the graph.
        device: Where numbers are.

    Raises:
        Exception: Any, if it does what is not known here, or wants to know a number.
    """
    recorder = Recorder(device)
    with torch.inference_mode(mode=False), torch.no_grad():
        given = [recorder.given(i, x) if isinstance(x, Tensor) else x for i, x in enumerate(leaves)]
        with recorder:
            returned, template = rule(given)
        outputs = [recorder.node_of(x) if isinstance(x, Tensor) else x for x in returned]
    return Graph(outputs, template, recorder.operations)


def _as_shape(x: Any) -> Any:
    """Return a tensor without numbers."""
    is_number = isinstance(x, Tensor) and x.ndim == 0 and x.device == CPU  # which torch may mix with other devices
    return torch.empty_like(x, device=META) if isinstance(x, Tensor) and not is_number and x.device != META else x


def _memory_of(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()


def _mapped(act: Callable[[Any], Any], given: Sequence[Any]) -> list[Any]:
    return [[act(x) for x in own] if isinstance(own, (list, tuple)) else act(own) for own in given]
