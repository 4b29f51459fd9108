"""Hypothesis strategies for gradients: every finite bit pattern of a dtype, in lists of tensors of any sizes."""

import torch
from hypothesis import strategies as st
from torch import Tensor

NARROW = (torch.float16, torch.bfloat16, torch.float32)
_BITS = {torch.float16: (16, 10), torch.bfloat16: (16, 7), torch.float32: (32, 23)}
_INTEGER = {16: torch.int16, 32: torch.int32}


@st.composite
def elements(draw: st.DrawFn, dtype: torch.dtype, *, max_size: int = 40) -> Tensor:
    """A vector of finite elements, their exponents spread over the whole range or close to each other."""
    bits, fraction = _BITS[dtype]
    exponents = 2 ** (bits - 1 - fraction) - 1  # the last one is infinity and NaN
    centre = draw(st.integers(0, exponents - 1))
    spread = draw(st.sampled_from([0, 2, exponents]))
    low, high = max(0, centre - spread), min(exponents - 1, centre + spread)
    pattern = st.tuples(st.booleans(), st.integers(low, high), st.integers(0, 2**fraction - 1))
    words = draw(st.lists(pattern, max_size=max_size))
    values = [-(s << (bits - 1)) + (e << fraction) + f for s, e, f in words]
    return torch.tensor(values, dtype=_INTEGER[bits]).view(dtype)


def gradients(*, max_tensors: int = 5) -> st.SearchStrategy[list[Tensor]]:
    """Tensors of one or several narrow dtypes, empty ones among them."""
    return st.lists(st.sampled_from(NARROW).flatmap(elements), min_size=1, max_size=max_tensors)
