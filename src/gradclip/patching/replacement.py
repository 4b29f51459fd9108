"""Replace torch's functions for a `with` block or a process, and put them back."""

import functools
import inspect
import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from gradclip import callers, functional
from gradclip.clipper.arguments import check_sinks
from gradclip.distributed.dtensor import is_dtensor, replicated
from gradclip.distributed.layout import may_have_gradient
from gradclip.exceptions import NonFiniteGradientError
from gradclip.functional.arguments import check_max_norm, check_total_norm
from gradclip.numbers import WIDE, is_known
from gradclip.parameters import Parameters, flatten
from gradclip.patching.clippers import Clippers
from gradclip.patching.fsdp1 import in_place_of, when_imported
from gradclip.patching.places import CLIPPING, Function, Place, holders_of, originals, ours, places_of
from gradclip.policies import Policy
from gradclip.policies.policy import check_policies
from gradclip.records import Sink
from gradclip.tracing import is_graph_made
from gradclip.validation import check_norm_type

if TYPE_CHECKING:
    from typing_extensions import Self

OF_OURS = {"eps", "nonfinite", "group"}
"""Arguments of ours alone, with which a call goes on as it is."""


@final
class Patch:
    """The result of `patch`: torch's functions are replaced, in a `with` statement until its end.

    Attributes:
        arguments: The arguments of `patch`.
        places: Where the functions were replaced, such as `torch.nn.utils.clip_grad_norm_`.
        unreached: Other holders of the functions, such as a closure, that still call torch's functions.
        was_called: Whether any of the functions was called.
    """

    def __init__(self, policy: Policy | None, sinks: Sequence[Sink]) -> None:
        self.arguments = policy, sinks
        self._is_active, self._times, self.was_called = True, 1, False
        torchs = originals()
        self.unreached = sorted(set(holders_of(torchs)))  # first, as it takes long, and Ctrl-C may come
        self._clippers = Clippers(policy, sinks, self._holds) if policy is not None or sinks else None
        self._originals = {(name, True): function for name, function in torchs.items()}  # and whether it is torch's
        if self._clippers is not None:
            self._originals |= {(name, False): function for name, function in ours().items()}
        self._owns = {key: self._in_place_of(*key) for key in self._originals}
        self._replaced = _exchange({original: self._owns[key] for key, original in self._originals.items()})
        self._fsdp1 = when_imported(self._replace_method)

    @property
    def places(self) -> list[str]:
        """Where torch's functions were replaced."""
        return [str(place) for place in self._replaced]

    def undo(self) -> None:
        """Put torch's functions back, unless they were replaced again, and also where ours were imported since."""
        self._fsdp1.remove()
        back = {own: self._originals[key] for key, own in self._owns.items()}
        _exchange(back)
        for other in _CURRENT:  # which may stand in place of what this one had put there
            other._originals = {key: back.get(original, original) for key, original in other._originals.items()}
        self._is_active = False
        self._replaced.clear()
        if self._clippers is not None:
            self._clippers.end()
        if self in _CURRENT:
            _CURRENT.remove(self)

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *error: object) -> None:
        self._times -= 1
        if self._times <= 0:
            self.undo()

    def _holds(self) -> bool:
        """Whether no other patch within holds for now."""
        return not _CURRENT or _CURRENT[-1] is self

    def _replace_method(self, method: Function) -> None:
        """Replace the method of FSDP1 too."""
        key = "FullyShardedDataParallel.clip_grad_norm_", True
        self._originals[key], clip = method, partial(self._clip_grad_norm_, "clip_grad_norm_")
        self._owns[key] = in_place_of(lambda: self._originals[key], clip, lambda: self._is_active)
        self._replaced += _exchange({method: self._owns[key]})

    def _in_place_of(self, name: str, is_torchs: bool) -> Function:  # noqa: FBT001 -- the key of the function
        """Return what is called in place of a function, of torch or of ours."""
        own: Function = getattr(functional, name)
        if self._clippers is not None and name in CLIPPING:
            others = {"clip_grads_with_norm_": self._clip_grads_with_norm_, "clip_grad_value_": self._clip_grad_value_}
            own = others.get(name, partial(self._clip_grad_norm_, name))
        given = "tensors" if name == "get_total_norm" else "parameters"
        returns_norm = name not in {"clip_grad_value_", "clip_grads_with_norm_"}

        def replacement(*args: Any, **kwargs: Any) -> Any:
            if not self._is_active or not OF_OURS.isdisjoint(kwargs):  # and somebody has kept it
                return self._originals[name, is_torchs](*args, **kwargs)
            self.was_called = True
            if not args and given in kwargs:
                args = (kwargs.pop(given),)
            listed = [_walkable(x) for x in args[:1]]
            try:
                found = own(*listed, *args[1:], **kwargs)
            except TypeError:
                if not _fits(signature, args, kwargs):
                    self._originals[name, is_torchs](*args, **kwargs)  # whose words are about its own arguments
                raise
            return _as_torch_returns(found, listed[0]) if returns_norm and is_torchs else found

        functools.update_wrapper(replacement, self._originals[name, is_torchs])
        vars(replacement).pop("__wrapped__")  # which holds the function, for the next to find
        vars(replacement)["__signature__"] = signature = inspect.signature(self._originals[name, is_torchs])
        return replacement

    def _clip_grad_norm_(
        self,
        function: str,
        parameters: Parameters,
        max_norm: float | Tensor,
        norm_type: float = 2.0,
        error_if_nonfinite: bool = False,  # noqa: FBT001, FBT002 -- torch's signature
        foreach: bool | None = None,  # noqa: ARG002, FBT001
    ) -> Tensor:
        if function == "clip_grad_norm":
            callers.warn("`torch.nn.utils.clip_grad_norm` is deprecated in favor of `clip_grad_norm_`.", FutureWarning)
        owners = _owners(function, parameters)
        gradients = [x if x.grad is None else x.grad for x in owners if may_have_gradient(x)]  # here, or elsewhere
        order, total = check_norm_type(function, norm_type), None
        if self._clippers is not None and order > 0.0 and gradients:
            bound = check_max_norm(function, max_norm)
            if not is_known(bound) or bound < math.inf:  # or it is measured, and clipped by a call, or before the step
                with suppress(NonFiniteGradientError):  # which the function raises, in torch's words
                    total = self._clippers.clip(owners, bound, order, raises=bool(error_if_nonfinite))
        if total is None:
            return functional.clip_grad_norm_(parameters, max_norm, norm_type, error_if_nonfinite)
        dtype = torch.float64 if any(x.dtype in WIDE for x in gradients) else torch.float32
        return total.to(gradients[0].device, dtype)

    def _clip_grads_with_norm_(
        self,
        parameters: Parameters,
        max_norm: float | Tensor,
        total_norm: float | Tensor,
        foreach: bool | None = None,  # noqa: ARG002, FBT001 -- torch's signature
    ) -> None:
        function = "clip_grads_with_norm_"
        owners = _owners(function, parameters)
        total = None
        if self._clippers is not None and any(map(may_have_gradient, owners)):
            bound, norm = check_max_norm(function, max_norm), check_total_norm(function, total_norm)
            total = self._clippers.clip(owners, bound, 2.0, total_norm=norm)
        if total is None:
            functional.clip_grads_with_norm_(parameters, max_norm, total_norm)

    def _clip_grad_value_(
        self,
        parameters: Parameters,
        clip_value: float | Tensor,
        foreach: bool | None = None,  # noqa: ARG002, FBT001 -- torch's signature
    ) -> None:
        owners = _owners("clip_grad_value_", parameters)
        about = self._clippers.families_about(owners) if self._clippers is not None and owners else ()
        clipped = [family for family in about if family.is_as_called()]
        functional.clip_grad_value_(parameters, clip_value)
        for family in clipped:
            family.take_as_called()


_CURRENT: list[Patch] = []
"""The patches that hold now, the last of which has replaced what those before it had put in place."""


def patch(policy: Policy | None = None, *, sinks: Sequence[Sink] = ()) -> Patch:
    """Replace torch's clipping functions by those of gradclip, wherever they are called from.

    `torch.nn.utils.clip_grad_norm_`, `clip_grad_value_`, `clip_grads_with_norm_` and `get_total_norm` are replaced in
    `torch.nn.utils`, in `torch.nn.utils.clip_grad`, and in every module that has imported them from there. The method
    `clip_grad_norm_` of FSDP1 is replaced too. Call `patch` at the top of a script, for example if a framework clips by
    itself.

    Args:
        policy: A policy to use instead of the threshold that callers pass. Gradients that the script does not clip are
            then clipped before each step of their optimizer too, and a step on NaN or infinite gradients is skipped.
        sinks: Callables that take a `ClipRecord` of each clip, including those of a `GradClipper`; of each step of an
            optimizer whose gradients are not clipped; and of each step that a `GradScaler` skips.

    Returns:
        What was replaced. Used as a context manager, it puts everything back at the end; otherwise call `unpatch`. A
        second call with the same arguments does nothing. With other arguments, the new patch is used until it ends.

    Raises:
        TypeError: If an argument has the wrong type.

    Warns:
        UserWarning: If torch's functions are held where they cannot be replaced, such as in a closure.

    Example:
        >>> import torch, gradclip
        >>> w = torch.nn.Parameter(torch.zeros(2))
        >>> w.grad = torch.tensor([3e20, 4e20])
        >>> with gradclip.patch():
        ...     torch.nn.utils.clip_grad_norm_([w], 1.0)  # infinite by torch's own
        tensor(5.0000e+20)
        >>> w.grad
        tensor([0.6000, 0.8000])

    Note:
        *Distributed:* for DTensors, the norm is returned as torch returns it, as a DTensor that every rank holds as a
        whole. Code that calls its `full_tensor()` keeps working.
    """
    if policy is not None:
        check_policies("patch", (policy,))
    arguments = policy, check_sinks("patch", sinks)
    if _CURRENT and _CURRENT[-1].arguments == arguments:
        _CURRENT[-1]._times += 1
        return _CURRENT[-1]
    made = Patch(*arguments)
    _CURRENT.append(made)
    if made.unreached:
        where = ", ".join(made.unreached)
        message = f"`patch()` could not reach torch's function in {where}. Call it before what keeps it there is made."
        try:
            callers.warn(message)
        except BaseException:
            made.undo()
            raise
    return made


def unpatch() -> None:
    """Put back torch's functions that `patch` has replaced; does nothing if there are none.

    Example:
        >>> import torch, gradclip
        >>> torchs = torch.nn.utils.clip_grad_norm_
        >>> patched = gradclip.patch()
        >>> torch.nn.utils.clip_grad_norm_ is torchs
        False
        >>> gradclip.unpatch()
        >>> torch.nn.utils.clip_grad_norm_ is torchs
        True
    """
    while _CURRENT:
        _CURRENT[-1].undo()


def _exchange(others: dict[Function, Function]) -> list[Place]:
    """Put a function in place of another wherever modules have that; return where."""
    found = places_of(others)
    for place, function in found:
        setattr(place.owner, place.name, others[function])
    return [place for place, _ in found]


def _walkable(given: Any, depth: int = 1) -> Any:
    """Return parameters to be walked more than once: iterators, and those within, as lists; but for exhausted ones."""
    given = (list(given) or given) if isinstance(given, Iterator) else given
    if depth == 0 or not isinstance(given, (list, tuple)) or all(isinstance(x, Tensor) for x in given):
        return given
    return [_walkable(x, depth - 1) for x in given]


def _owners(function: str, parameters: Parameters) -> list[Tensor]:
    """Return the parameters of a call that a clipper may take; none in a graph, or where some are no tensors."""
    if isinstance(parameters, Iterator):  # an exhausted one, of which the function tells
        return []
    tensors, _ = flatten(function, parameters)
    owners = [x for x in tensors if isinstance(x, Tensor)]
    return owners if len(owners) == len(tensors) and not is_graph_made() else []


def _fits(signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a function can be called so: with all its arguments, each once, and no others."""
    try:
        signature.bind(*args, **kwargs)
    except TypeError:
        return False
    return True


def _as_torch_returns(norm: Any, parameters: Any) -> Any:
    """Return a norm of DTensors as one itself."""
    listed = parameters if isinstance(parameters, (list, tuple)) else [parameters]
    owners = [x for x in listed if is_dtensor(x)]  # `next` with a default would break a graph of torch 2.6
    return replicated(norm, owners[0]) if owners else norm
