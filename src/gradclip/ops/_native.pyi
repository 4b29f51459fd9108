from collections.abc import Sequence
from typing import Any, TypeAlias

from torch import Tensor

ISA: str
HAS_EXCHANGE: int

Launch: TypeAlias = tuple[int, int, int, int, list[int]]
Functions: TypeAlias = tuple[int, int, int, int, int, int]
Runs: TypeAlias = tuple[tuple[int, int, int, bool], ...]
Chunks: TypeAlias = tuple[object, Runs, int, int, bool]
Form: TypeAlias = tuple[Runs, int, int, bool, int]
Ahead: TypeAlias = tuple[Functions, tuple[int, int], Form, float, float, tuple[int, int, bool], int, list[Launch]]

def widest(tensors: list[Tensor], /) -> int: ...
def walk(
    owners: list[Tensor],
    norm_type: float | None,
    sharded: type | None,
    marks: tuple[str, ...] | None,
    sizes: tuple[int, int, int],
    tabled: bool,
    ahead: Ahead | None,
    /,
) -> (
    tuple[list[Tensor], Sequence[int] | None, int, float, list[Any] | None, Sequence[int], Chunks | None, bool] | None
): ...
def table(tensors: list[Tensor], by_unit: bool, sizes: tuple[int, int, int], /) -> Chunks | None: ...
def fill(table: object, max_norm: float, eps: float, host: int, /) -> None: ...
def launch(functions: Functions, where: tuple[int, int], launches: list[Launch], /) -> None: ...
def start(
    functions: Functions,
    where: tuple[int, int],
    table: object,
    max_norm: float,
    eps: float,
    slot: tuple[int, int, bool],
    device: int,
    launches: list[Launch],
    /,
) -> bool: ...
def measure(tensors: list[Tensor], norm_type: float, factor: float | Tensor = ..., /) -> float: ...
def measure_each(tensors: list[Tensor], norm_type: float, out: Tensor, /) -> None: ...
def scale_(tensors: list[Tensor], coef: float | Tensor, /) -> None: ...
def clamp_(tensors: list[Tensor], bound: float, /) -> None: ...
def units(tensors: list[Tensor], /) -> list[int]: ...
def unit_square_sums(tensors: list[Tensor], out: Tensor, /) -> list[int]: ...
def scale_units_(tensors: list[Tensor], coefs: Tensor, /) -> list[int]: ...
def read(tensors: list[Tensor], /) -> int: ...
def scalar(number: float, wide: bool, /) -> Tensor: ...
