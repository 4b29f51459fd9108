"""Norms of gradients, and the coefficient that a norm leads to: nothing is written."""

import math
from collections.abc import Iterable

from torch import Tensor

from gradclip.distributed.span import Group, spanning
from gradclip.exceptions import NonFiniteGradientError
from gradclip.functional.arguments import check_eps, check_max_norm, check_total_norm
from gradclip.functional.call import complaint
from gradclip.gradients import collect, gather
from gradclip.gradients.told import tell, told
from gradclip.numbers import as_float64, coefficient, on_host
from gradclip.parameters import Parameters, refuse_same_name
from gradclip.validation import check_norm_type


def get_total_norm(
    tensors: Tensor | Iterable[Tensor],
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,  # noqa: FBT001, FBT002 -- torch's signature
    foreach: bool | None = None,  # noqa: ARG001, FBT001
    *,
    group: Group | None = None,
) -> Tensor:
    r"""Return the norm :math:`\lVert x \rVert_p` of all tensors viewed as one vector; nothing is written.

    Args:
        tensors: Gradients, or any floating-point tensors; repeated tensors count once.
        norm_type: Order :math:`p` of the norm, as in `clip_grad_norm_`.
        error_if_nonfinite: Whether to raise an error if the norm is NaN or infinite in float64.
        foreach: Has no effect.
        group: As in `clip_grad_norm_`.

    Returns:
        The total norm: 0-dim, float32 (float64 if any tensor has that precision), on the device of the first. A norm
        beyond the range of float32, which finite gradients can have, is returned as infinite and is not an error:
        `clip_grad_norm_` clips by the float64 norm.

    Raises:
        NonFiniteGradientError: If the norm is not finite in float64 and `error_if_nonfinite` is true.
        RemoteError: If another rank cannot collect its tensors.
        TypeError: If `tensors` holds anything other than real or complex floating-point tensors.
        ValueError: If `norm_type` is not an order.

    Example:
        >>> import torch, gradclip
        >>> gradclip.get_total_norm([torch.tensor([3.0]), torch.tensor([[4.0]])])
        tensor(5.)
    """
    function = "get_total_norm"
    span = spanning(function, group)
    try:
        norm_type = check_norm_type(function, norm_type)
    except (TypeError, ValueError) as error:
        tell(error, span, tensors, norm_type, are_gradients=True)
        raise
    gradients = gather(function, tensors, group=span)
    total_norm = gradients.total_norm(norm_type)
    if error_if_nonfinite and not math.isfinite(on_host(total_norm)):
        gradients.check_others()
        raise NonFiniteGradientError(complaint(gradients, norm_type))
    return gradients.as_tensor(total_norm)


def clip_coefficient(total_norm: float | Tensor, max_norm: float | Tensor, eps: float = 1e-6) -> Tensor:
    r"""Return the multiplier :math:`\min(1, c / (n + \epsilon))` that clipping applies.

    Args:
        total_norm: The norm :math:`n` >= 0.
        max_norm: The threshold :math:`c` >= 0.
        eps: The :math:`\epsilon` >= 0.

    Returns:
        The coefficient in [0, 1]: 0-dim, float64, on the device of `total_norm`. NaN if the norm is NaN.

    Raises:
        TypeError: If an argument is not a number or a tensor of one.
        ValueError: If an argument is negative, or `max_norm` is NaN.

    Example:
        >>> import gradclip
        >>> gradclip.clip_coefficient(total_norm=5.0, max_norm=1.0, eps=0.0)
        tensor(0.2000, dtype=torch.float64)
    """
    function = "clip_coefficient"
    norm = check_total_norm(function, total_norm)
    bound = check_max_norm(function, max_norm)
    coef = coefficient(norm, bound, check_eps(function, eps))
    return as_float64(coef)


def get_norms(parameters: Parameters, norm_type: float = 2.0) -> dict[str, Tensor]:
    """Return the norm of the gradient of each parameter, in one pass; nothing is written.

    Args:
        parameters: Whose gradients to measure, as in `clip_grad_norm_`. Parameters without one are left out.
        norm_type: Order of the norms, as in `clip_grad_norm_`.

    Returns:
        Norms by name, in order: 0-dim, float32 (float64 if any gradient has that precision), each on the device of its
        gradient. If no names are given, they are `parameters[0]`, `parameters[1]` and so on.

    Raises:
        RemoteError: If another rank cannot collect its gradients.
        TypeError: If an argument has the wrong type, or gradients are passed in place of parameters.
        ValueError: If `norm_type` is not an order.

    Example:
        >>> import torch, gradclip
        >>> layer = torch.nn.Linear(2, 1)
        >>> layer.weight.grad, layer.bias.grad = torch.tensor([[3.0, 4.0]]), torch.tensor([1.0])
        >>> gradclip.get_norms(layer)
        {'weight': tensor(5.), 'bias': tensor(1.)}
    """
    function = "get_norms"
    try:
        norm_type = check_norm_type(function, norm_type)
    except (TypeError, ValueError) as error:
        if (failed := told(error, None, parameters)) is not None:
            failed.norms(2.0)
        raise
    gradients = collect(function, parameters, writes=False)
    found: dict[str, Tensor] = {}
    for name, norm in gradients.named_norms(norm_type):
        if name in found:
            refuse_same_name(function, name)
        found[name] = norm
    return found
