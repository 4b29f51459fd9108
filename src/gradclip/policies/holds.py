"""What the numbers of a policy's state may be, said where the state is defined: `mean: Annotated[Scalar, SIZE]`."""

import math
from dataclasses import dataclass
from typing import Annotated, Any, TypeGuard, final, get_args, get_origin, get_type_hints


@final
@dataclass(frozen=True)
class Within:
    """A range of numbers.

    Args:
        at_least: The smallest number.
        above: A number that all are larger than.
        finite: Whether infinities are left out.
        whole: Whether fractions are.
        known: Whether NaN is.
    """

    at_least: float = -math.inf
    above: float = -math.inf
    finite: bool = False
    whole: bool = False
    known: bool = True

    def holds(self, value: object) -> TypeGuard[int | float]:
        """Whether something is a number of the range: neither a truth value nor a word."""
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        try:
            number = float(value)
        except OverflowError:
            return False
        if math.isnan(number):
            return not self.known
        if not number >= self.at_least or not (number > self.above or self.above == -math.inf):
            return False
        return not (self.finite and math.isinf(number)) and not (self.whole and number % 1.0 != 0.0)

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a finite number" if self.finite else "a number"
        bounds = [f">= {self.at_least:g}"] * (self.at_least > -math.inf) + [f"> {self.above:g}"] * (
            self.above > -math.inf
        )
        return " ".join([kind, *bounds])


NUMBER = Within()
"""Any number: what a state may hold that says nothing else."""

ANY = Within(known=False)
"""Any number, and NaN: what a running policy may have learned."""

FINITE = Within(finite=True)
"""A loss, for instance."""

SIZE = Within(at_least=0.0, finite=True)
"""A norm, a variance, a pressure."""

LEVEL = Within(above=0.0)
"""A norm to take the measure of others by: not 0, and infinite while it is not known."""

COUNT = Within(at_least=0.0, finite=True, whole=True)
"""A number of steps."""


def ranges_of(state: tuple[Any, ...]) -> list[Within]:
    """Return what each entry of a state may hold, as the class of the state says."""
    fields = getattr(type(state), "_fields", None)
    if fields is None:
        return [NUMBER] * len(state)
    hints = get_type_hints(type(state), include_extras=True)
    return [_range_of(hints.get(field)) for field in fields]


def _range_of(hint: object) -> Within:
    extras = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    return next((extra for extra in extras if isinstance(extra, Within)), NUMBER)
