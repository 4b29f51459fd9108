"""The table of chunks that the kernels go by: made anew at every call.

Gradients of a training loop are at other addresses at every step, so nothing of it is kept.

=====================  ==============================================================================
words (int64)          of N chunks and S segments
=====================  ==============================================================================
N                      the address of each chunk
N                      how many elements it has
N                      its segment: the place of a tensor among all, or of a unit
S, S                   the first chunk of each segment, and the one after its last
2                      0 and N, as if all were one segment
2                      `max_norm` and `eps` as float64, where they are known
=====================  ==============================================================================

Chunks of one dtype lie together, whatever the order of the tensors.
"""

from ctypes import c_int64
from itertools import accumulate
from typing import Any, NamedTuple, TypeAlias, final

import torch
from torch import Tensor

from gradclip.numbers import CPU, WIDE
from gradclip.ops.backend import count_units

try:
    from gradclip.ops import _native
except ImportError:
    _native = None

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128]
"""Those that there are kernels for, in the order of the extension."""

SIZES = 2**14, 2**16, 2**28
"""Elements of a chunk; of one where there are many elements; and how many that is. Fewer chunks starve a GPU, and more
partials take time to combine."""

ALIGNMENT = 16
"""Bytes that are read at once, where all chunks begin at a multiple of them."""


Run: TypeAlias = tuple[int, int, int, bool]
"""The chunks of one dtype: its place in `DTYPES`, the first, the one after the last, and whether all are aligned."""


@final
class HostTable(NamedTuple):
    """What is known of a table before it is written, which takes longer than the rest where there are many chunks.

    Attributes:
        words: A tensor of the words but for the bounds; or what the extension writes them by, straight to where they
            are copied from.
        runs: Its chunks by dtype.
        chunks: The number N of chunks.
        segments: The number S of segments.
        is_wide: Whether any tensor has the precision of float64, one without elements too.
    """

    words: Any
    runs: tuple[Run, ...]
    chunks: int
    segments: int
    is_wide: bool


@final
class Table(NamedTuple):
    """The same on the device.

    Attributes:
        words: Its words.
        address: Where they are.
        size: How many.
    """

    words: Tensor
    runs: tuple[Run, ...]
    chunks: int
    segments: int
    is_wide: bool
    address: int
    size: int

    @property
    def each(self) -> int:
        """The word from which on it is said where segments begin and end."""
        return 3 * self.chunks

    @property
    def whole(self) -> int:
        """The same for everything as one segment."""
        return 3 * self.chunks + 2 * self.segments

    @property
    def bounds(self) -> int:
        """The word from which on the bounds are."""
        return self.whole + 2


def on_device(table: HostTable, device: torch.device) -> Table:
    """Return a table on a device, where nothing is written yet."""
    size = 3 * table.chunks + 2 * table.segments + 4
    words = torch.empty(size, dtype=torch.int64, device=device)
    return Table(words, *table[1:], words.data_ptr(), size)


def write(table: HostTable, bounds: tuple[float, float], out: Tensor) -> None:
    """Write a table, with `max_norm` and `eps`, to int64 memory of the host."""
    if isinstance(table.words, Tensor):
        numbers = torch.tensor(bounds, dtype=torch.float64, device=CPU).view(torch.int64)
        torch.cat([table.words, numbers], out=out)
    else:
        _native.fill(table.words, *bounds, out.data_ptr())  # type: ignore[union-attr] -- which has made it


def tabled(tensors: list[Tensor], *, by_unit: bool = False) -> HostTable:
    """Return the table of dense tensors of one device.

    Args:
        tensors: The tensors; where units are asked for, each unit of them is one run of memory.
        by_unit: Whether each unit is a segment, and not each tensor.
    """
    found = read_by_extension(tensors, by_unit=by_unit)
    return written(tensors, by_unit=by_unit) if found is None else found


def read_by_extension(tensors: list[Tensor], *, by_unit: bool = False) -> HostTable | None:
    """Return the table of tensors, if there is the extension, and it takes them: dense ones of one device."""
    found = _native.table(tensors, by_unit, SIZES) if _native is not None and tensors else None
    return None if found is None else HostTable(*found)


def written(tensors: list[Tensor], *, by_unit: bool = False) -> HostTable:
    """Return the same without the extension."""
    dtypes = list(dict.fromkeys(x.dtype for x in sorted(tensors, key=lambda x: x.numel() == 0)))
    order = sorted(range(len(tensors)), key=lambda i: dtypes.index(tensors[i].dtype))
    own = [tensors[i] for i in order]
    units = [count_units(x) if by_unit else 1 for x in own]
    address, numel, count, itemsize = _vectors(
        [c_int64(x.data_ptr()).value for x in own],  # those of Intel's GPUs have the highest bit
        [x.numel() for x in own],
        units,
        [x.itemsize for x in own],
    )
    back = torch.tensor(order, dtype=torch.int64, device=CPU)  # segments are counted in the order of the tensors
    ahead = torch.zeros_like(count).index_copy(0, back, count)
    first = (torch.cumsum(ahead, 0) - ahead)[back]
    size = _spread(numel // count.clamp(min=1), count)
    inside = _counted(count)
    segment = _spread(first, count) + inside
    begin = _spread(address, count) + inside * size * _spread(itemsize, count)

    small, large, many = SIZES
    chunk = small if int(numel.sum()) < many else large
    pieces = -(-size // chunk)
    offset = _counted(pieces) * chunk
    where = _spread(begin, pieces) + offset * _spread(_spread(itemsize, count), pieces)
    after = torch.cumsum(pieces, 0)
    starts = torch.zeros((2, len(pieces)), dtype=torch.int64, device=CPU)
    starts[:, segment] = torch.stack([after - pieces, after]) * (pieces > 0)
    elements = (_spread(size, pieces) - offset).clamp(max=chunk)
    whole = torch.tensor([0, len(where)], dtype=torch.int64, device=CPU)
    words = torch.cat([where, elements, _spread(segment, pieces), starts.view(-1), whole])
    owner = torch.arange(len(own), device=CPU).repeat_interleave(count)
    per_tensor = torch.zeros_like(count).index_add(0, owner, pieces)
    return HostTable(words, _runs(own, per_tensor, where), len(where), len(pieces), not WIDE.isdisjoint(dtypes))


def _vectors(*numbers: list[int]) -> list[Tensor]:
    return [torch.tensor(x, dtype=torch.int64, device=CPU) for x in numbers]


def _spread(x: Tensor, counts: Tensor) -> Tensor:
    return x.repeat_interleave(counts)


def _counted(counts: Tensor) -> Tensor:
    """Return 0, 1, ... up to each count, one after the other."""
    total = int(counts.sum())
    return torch.arange(total, device=CPU) - _spread(torch.cumsum(counts, 0) - counts, counts)


def _runs(tensors: list[Tensor], chunks: Tensor, where: Tensor) -> tuple[Run, ...]:
    counts: dict[int, int] = {}
    for x, count in zip(tensors, chunks.tolist(), strict=True):
        if count:
            counts[DTYPES.index(x.dtype)] = counts.get(DTYPES.index(x.dtype), 0) + count
    ends = list(accumulate(counts.values()))
    bounds = zip(counts, [0, *ends], ends, strict=False)
    return tuple((place, begin, end, not (where[begin:end] % ALIGNMENT).any()) for place, begin, end in bounds)
