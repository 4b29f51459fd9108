"""Assert that ranks with copies of a model have the same gradients."""

from gradclip.distributed.replicas import describe, differing, everyone
from gradclip.distributed.span import Group, spanning
from gradclip.exceptions import RemoteError
from gradclip.gradients import collect
from gradclip.parameters import Parameters, named


def assert_same_gradients(parameters: Parameters, *, group: Group | None = None) -> None:
    """Assert that parameters of the same name have gradients of the same norm on every rank that has them.

    Call it on all ranks, after `backward()`, before or after clipping.

    Args:
        parameters: Parameters, in any form that `clip_grad_norm_` takes. For a parameter that several ranks hold
            together, the norm is that of the whole.
        group: The ranks to compare; by default all ranks of the program. With only one rank, nothing is compared.

    Raises:
        AssertionError: With the names and norms that differ, on every rank.
        RemoteError: If another rank could not measure its gradients.
        TypeError: If an argument has the wrong type.

    Example:
        >>> import torch
        >>> from gradclip.testing import assert_same_gradients
        >>> model = torch.nn.Linear(2, 1)
        >>> model(torch.ones(4, 2)).sum().backward()
        >>> assert_same_gradients(model)
    """
    function = "assert_same_gradients"
    span = spanning(function, group) or everyone()
    try:
        tensors, names = named(function, parameters)
        gradients = collect(function, tensors, names=names, writes=False)
    except BaseException as error:
        if span is not None:
            span.gather(f"{type(error).__name__}: {error}")
        raise
    if span is None:
        return
    failed = {rank: said for rank, said in zip(span.ranks, span.gather(""), strict=True) if said}
    if failed:
        raise RemoteError(" ".join(f"Rank {rank}: {said}" for rank, said in failed.items()))
    if found := differing(gradients.copied_norms(2.0), span):
        raise AssertionError(describe(found))
