"""Print what torch.nn.utils and gradclip make of the same gradients, case by case: the table of the README.

Run: python benchmarks/exactness.py
"""

import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

import gradclip


def owner(gradient: Tensor) -> nn.Parameter:
    """Return a parameter with a gradient."""
    p = nn.Parameter(torch.zeros_like(gradient))
    p.grad = gradient
    return p


def shown(call: Callable[[], str]) -> str:
    """Return what a call says, or its error or warning in one line."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            text = call()
        except (TypeError, ValueError, RuntimeError) as error:
            return f"{type(error).__name__}: {str(error).splitlines()[0][:100]}"
    return f"{text}; warns: {str(caught[0].message)[:60]}" if caught else text


def large(module: object) -> str:
    """Gradients of 1e20."""
    p = owner(torch.full((10,), 1e20))
    norm = module.clip_grad_norm_([p], 1.0)
    return f"norm {norm.item():.4g}, clipped to norm {float(p.grad.double().norm()):.4g}"


def many(module: object) -> str:
    """200 million elements of 0.1."""
    x = torch.full((200_000_000,), 0.1)
    truth = float(x[0]) * math.sqrt(x.numel())
    return f"norm off by {abs(module.get_total_norm([x]).item() / truth - 1):.1e}"


def bfloat16(module: object) -> str:
    """bfloat16: error of the norm, norm after clipping, spread over groupings, in the worst of 300 seeds."""
    error = excess = spread = 0.0
    for seed in range(300):
        x = torch.randn(4096, generator=torch.Generator().manual_seed(seed)).bfloat16()
        truth = float(x.double().norm())
        norms = [module.get_total_norm(pieces).item() for pieces in ([x], list(x.split(512)), list(x.split(100)))]
        spread = max(spread, max(norms) / min(norms) - 1)
        error = max(error, abs(norms[0] / truth - 1))
        p = owner(x.clone())
        module.clip_grad_norm_([p], truth / 3)
        excess = max(excess, float(p.grad.double().norm()) / (truth / 3))
    return f"norm off by {error:.1e}, groupings differ by {spread:.1e}, clipped to {excess:.5f} x max_norm"


def float16(module: object) -> str:
    """float16: four tensors of norm 4e4."""
    parameters = [owner(torch.full((4,), 2e4, dtype=torch.float16)) for _ in range(4)]
    norm = module.clip_grad_norm_(parameters, 8e3)
    return f"norm {norm.item():.4g}, element 20000 becomes {parameters[0].grad[0].item():.4g}"


def one_nan(module: object) -> str:
    """One NaN, asked to raise."""
    p = owner(torch.tensor([1.0, math.nan]))
    with_name = [("head.weight", p)] if module is gradclip else [p]
    try:
        module.clip_grad_norm_(with_name, 1.0, error_if_nonfinite=True)
    except RuntimeError as error:
        return f"raises{'' if 'head.weight' not in str(error) else ', names head.weight (1 NaN, 0 Inf of 2 elements)'}"
    return "silent"


def negative(module: object) -> str:
    """max_norm = -1."""
    p = owner(torch.tensor([3.0, 4.0]))
    module.clip_grad_norm_([p], -1)
    return f"[3, 4] becomes {[round(v, 4) for v in p.grad.tolist()]}"


def exhausted(module: object) -> str:
    """An exhausted filter()."""
    p = owner(torch.tensor([3.0, 4.0]))
    parameters = filter(lambda q: q.requires_grad, [p])
    list(parameters)
    return f"norm {module.clip_grad_norm_(parameters, 1.0).item()}"


def misplaced(module: object) -> str:
    """Gradients passed as parameters."""
    return f"norm {module.clip_grad_norm_([torch.tensor([3.0, 4.0])], 1.0).item()}"


def twice(module: object) -> str:
    """One parameter listed twice."""
    p = owner(torch.tensor([3.0, 4.0]))
    norm = module.clip_grad_norm_([p, p], 1.0)
    return f"norm {norm.item():.4g}, clipped to norm {p.grad.norm().item():.4g}"


def unclipped(module: object) -> str:
    """A step below the bound."""
    p = owner(torch.tensor([3.0, 4.0]))
    version = p.grad._version
    module.clip_grad_norm_([p], 100.0)
    return "gradients rewritten" if p.grad._version > version else "nothing written"


def zeros(module: object) -> str:
    """norm_type = 0 on 3 + 2 non-zero elements."""
    return f"{module.get_total_norm([torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.0, 4.0, 5.0])], 0.0).item():g}"


def empty(module: object) -> str:
    """The inf-norm with an empty tensor."""
    return f"norm {module.get_total_norm([torch.tensor([2.0]), torch.empty(0)], math.inf).item():g}"


CASES = (
    large, many, bfloat16, float16, one_nan, negative, exhausted, misplaced, twice, unclipped, zeros, empty
)  # fmt: skip

if __name__ == "__main__":
    for case in CASES:
        print(case.__doc__)
        for name, module in (("torch", torch.nn.utils), ("gradclip", gradclip)):
            print(f"  {name:9}{shown(lambda case=case, module=module: case(module))}")
