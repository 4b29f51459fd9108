"""Clip, under torch's names."""

import math

from torch import Tensor

from gradclip import callers
from gradclip.distributed.span import Group, spanning
from gradclip.functional.arguments import NonFinite, check_eps, check_max_norm, check_nonfinite, check_total_norm
from gradclip.functional.call import Call
from gradclip.gradients import collect
from gradclip.gradients.told import tell
from gradclip.numbers import coefficient
from gradclip.parameters import Parameters
from gradclip.stages import run
from gradclip.validation import check_norm_type


def clip_grad_norm_(
    parameters: Parameters,
    max_norm: float | Tensor,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,  # noqa: FBT001, FBT002 -- torch's signature
    foreach: bool | None = None,  # noqa: ARG001, FBT001
    *,
    eps: float = 1e-6,
    nonfinite: NonFinite = "propagate",
    group: Group | None = None,
) -> Tensor:
    r"""Scale gradients in place so that their total norm is at most `max_norm`.

    With :math:`g` the gradients of `parameters` viewed as one vector,

    .. math:: g \leftarrow g \cdot \min\left(1, \frac{c}{\lVert g \rVert_p + \epsilon}\right),

    where :math:`c` is `max_norm`, :math:`p` is `norm_type` and :math:`\epsilon` is `eps`. The norm and the coefficient
    are float64, and each element is rounded once. If the coefficient is 1, no byte changes.

    Args:
        parameters: Whose gradients to clip: a tensor, an iterable of tensors or of (name, tensor) pairs, a module, or
            an optimizer. Parameters without a gradient are skipped. Repeated parameters are counted and scaled once.
            Sparse COO gradients count by their values, and complex gradients by their moduli.
        max_norm: The largest total norm left after the call, in the units of the gradients, >= 0. `math.inf` only
            measures. A 0-dim tensor on another device is never read back to the host.
        norm_type: Order of the norm: any real number or `math.inf`, also as text such as `"inf"`. 0 counts non-zero
            elements, and `-math.inf` is the smallest absolute value.
        error_if_nonfinite: The same as `nonfinite="raise"`.
        foreach: Has no effect.
        eps: Added to the norm before dividing by it, >= 0.
        nonfinite: What to do if the total norm is NaN or infinite. `"propagate"` does torch's arithmetic, which leaves
            zeros and NaNs; `"raise"` raises an error with the names of the parameters; `"keep"` changes nothing;
            `"sanitize"` sets non-finite elements to 0, then clips and returns the norm of the rest (unless
            `max_norm` is infinite, which only measures).
        group: A process group or mesh of all ranks that hold the model together. One collective is then enough, and a
            rank may have no parameters. What the tensors do not say about these ranks has to be declared, see
            `gradclip.distributed`.

    Returns:
        The total norm before clipping: 0-dim, float32 (float64 if any gradient has that precision), on the device of
        the first gradient.

    Raises:
        NonFiniteGradientError: If the total norm is not finite and `nonfinite` is `"raise"`.
        OverlappingGradientError: If a gradient cannot be written in place.
        RemoteError: If another rank cannot collect its gradients.
        TypeError: If an argument has the wrong type, or gradients are passed in place of parameters.
        ValueError: If `max_norm` or `eps` is negative or NaN, or another argument has no meaning.

    Example:
        >>> import torch, gradclip
        >>> w = torch.nn.Parameter(torch.zeros(2))
        >>> w.grad = torch.tensor([3.0, 4.0])
        >>> gradclip.clip_grad_norm_([w], max_norm=1.0)
        tensor(5.)
        >>> w.grad
        tensor([0.6000, 0.8000])

    Note:
        *Errors:* after any error, all gradients are unchanged.

        *Distributed:* if a parameter is a DTensor, belongs to FSDP1 or was declared, all ranks that hold it have to
        call this function. The norm is then that of the whole model, with the same bits on each rank. It takes one
        collective for each mesh.

        *Host sync:* on a device other than the CPU that has float64, nothing is read back, with three exceptions:
        `"raise"` or `"sanitize"` needs the norm, some of the gradients are on the CPU, or this rank lacks a gradient
        that may be a `Partial` DTensor on others.

        *Differs from torch:* the norm of float16, bfloat16 and float32 gradients does not overflow, underflow or drift,
        and is never rounded to half precision. `norm_type=0` counts elements, while torch counts tensors. The norm of
        no elements is 0.

        *Range:* as in torch, sums of squares of float64 gradients leave the range of float64 for norms above 1.3e154
        and below 1e-154. Four elements of 1e160, for example, have an infinite norm and are all set to 0.
        `nonfinite="sanitize"` clips them correctly, in units of the largest; `"raise"` and `"keep"` leave them
        unchanged.

    References:
        Pascanu, Mikolov and Bengio, On the difficulty of training recurrent neural networks, 2013,
        arXiv:1211.5063, section 3.2, algorithm 1.
    """
    function = "clip_grad_norm_"
    span = None if group is None else spanning(function, group)
    try:
        max_norm = check_max_norm(function, max_norm)
        if type(norm_type) is not float or norm_type != 2.0:  # noqa: PLR2004 -- a default needs no check, and a check costs as much as two small tensors
            norm_type = check_norm_type(function, norm_type)
        if type(eps) is not float or eps != 1e-6:  # noqa: PLR2004
            eps = check_eps(function, eps)
        if error_if_nonfinite or nonfinite != "propagate":
            nonfinite = check_nonfinite(function, nonfinite, error_if_nonfinite=error_if_nonfinite)
    except (TypeError, ValueError, RuntimeError) as error:
        tell(error, span, parameters, norm_type)
        raise
    if nonfinite == "sanitize" and max_norm == math.inf:  # which only measures
        nonfinite = "keep"
    call = Call(collect(function, parameters, norm_type, (max_norm, eps), group=span), norm_type, max_norm, eps)
    run((call,), call, nonfinite)
    return call.gradients.as_tensor(call.total)


def clip_grad_norm(
    parameters: Parameters,
    max_norm: float | Tensor,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,  # noqa: FBT001, FBT002 -- torch's signature
    foreach: bool | None = None,  # noqa: FBT001
) -> Tensor:
    """Do what `clip_grad_norm_` does, under the name that torch has deprecated.

    Example:
        >>> import warnings, torch, gradclip
        >>> w = torch.nn.Parameter(torch.zeros(2))
        >>> w.grad = torch.tensor([3.0, 4.0])
        >>> warnings.simplefilter("ignore", FutureWarning)
        >>> gradclip.clip_grad_norm([w], 1.0)
        tensor(5.)

    Warns:
        FutureWarning: At every call, as torch does.
    """
    callers.warn("`gradclip.clip_grad_norm` is now deprecated in favor of `gradclip.clip_grad_norm_`.", FutureWarning)
    return clip_grad_norm_(parameters, max_norm, norm_type, error_if_nonfinite, foreach)


def clip_grads_with_norm_(
    parameters: Parameters,
    max_norm: float | Tensor,
    total_norm: float | Tensor,
    foreach: bool | None = None,  # noqa: ARG001, FBT001 -- torch's signature
    *,
    eps: float = 1e-6,
) -> None:
    r"""Scale gradients in place by :math:`\min(1, c / (n + \epsilon))`, for a norm that is already known.

    Args:
        parameters: Whose gradients to scale, as in `clip_grad_norm_`.
        max_norm: The threshold :math:`c` >= 0; `math.inf` changes nothing.
        total_norm: The norm :math:`n` >= 0 of all gradients, as `get_total_norm` returns it.
        foreach: Has no effect.
        eps: The :math:`\epsilon` >= 0 of the formula.

    Raises:
        OverlappingGradientError: If a gradient cannot be written in place.
        TypeError: If an argument has the wrong type, or gradients are passed in place of parameters.
        ValueError: If `max_norm`, `total_norm` or `eps` is negative, or `max_norm` is NaN.

    Example:
        >>> import torch, gradclip
        >>> w = torch.nn.Parameter(torch.zeros(2))
        >>> w.grad = torch.tensor([3.0, 4.0])
        >>> gradclip.clip_grads_with_norm_([w], max_norm=1.0, total_norm=gradclip.get_total_norm([w.grad]))
        >>> w.grad
        tensor([0.6000, 0.8000])
    """
    function = "clip_grads_with_norm_"
    max_norm = check_max_norm(function, max_norm)
    norm = check_total_norm(function, total_norm)
    eps = check_eps(function, eps)
    collect(function, parameters, alone=True).scale_(coefficient(norm, max_norm, eps))


def clip_grad_value_(
    parameters: Parameters,
    clip_value: float | Tensor,
    foreach: bool | None = None,  # noqa: ARG001, FBT001 -- torch's signature
) -> None:
    """Limit every element of every gradient to [-clip_value, clip_value], in place.

    Args:
        parameters: Whose gradients to clip, as in `clip_grad_norm_`. The real and the imaginary part of a complex
            gradient are limited separately; in a sparse gradient, the sum of duplicate entries is limited.
        clip_value: The largest absolute value left, >= 0, rounded to the dtype of the gradient; `math.inf` changes
            nothing.
        foreach: Has no effect.

    Raises:
        OverlappingGradientError: If a gradient cannot be written in place.
        TypeError: If an argument has the wrong type, or gradients are passed in place of parameters.
        ValueError: If `clip_value` is negative or NaN.

    Example:
        >>> import torch, gradclip
        >>> w = torch.nn.Parameter(torch.zeros(3))
        >>> w.grad = torch.tensor([-3.0, 0.5, 4.0])
        >>> gradclip.clip_grad_value_([w], clip_value=1.0)
        >>> w.grad
        tensor([-1.0000,  0.5000,  1.0000])

    Note:
        NaN stays NaN. *Host sync:* a `clip_value` on another device is read back.

    References:
        Mikolov, Statistical Language Models Based on Neural Networks, PhD thesis, Brno, 2012.
    """
    function = "clip_grad_value_"
    bound = float(check_max_norm(function, clip_value, "clip_value"))
    collect(function, parameters, alone=True).clamp_(bound)
