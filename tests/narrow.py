"""A stand-in for a device without float64: tensors that are on the CPU, and say that they are on Apple's GPU."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

DEVICE = torch.device("mps")

ASKING = {Tensor.copy_, Tensor.masked_fill_}
"""What asks for the device itself, before it comes to the stand-in; as `~` does."""


class There(Tensor):
    """A tensor of the device. What comes of it is there too, but for copies to the CPU; float64 is refused."""

    held: Tensor

    @staticmethod
    def __new__(cls: Any, held: Tensor) -> Any:
        if held.dtype in {torch.float64, torch.complex128}:
            raise TypeError(
                "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64."
            )
        return torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=DEVICE,
        )

    def __init__(self, held: Tensor) -> None:
        self.held = held

    def __repr__(self, **_: Any) -> str:
        return f"There({self.held})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        to = kwargs.get("device", DEVICE)
        if to == DEVICE and "device" in kwargs:
            kwargs["device"] = torch.device("cpu")
        if func is torch.ops.aten.copy_.default and not isinstance(args[0], There):
            return func(args[0], args[1].held)
        found = func(*tree_map(_held, args), **tree_map(_held, kwargs))
        if func._schema.name.endswith("_") and isinstance(args[0], There):
            return args[0]
        return tree_map(_there, found) if torch.device(to) == DEVICE else found


class Device(TorchFunctionMode):
    """Make tensors on the device where that is asked for."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        asked = [x for x in (*args, kwargs.get("device")) if isinstance(x, torch.device)]
        if DEVICE in asked and not any(isinstance(x, There) for x in args):
            here = torch.device("cpu")
            args = tuple(here if isinstance(x, torch.device) else x for x in args)
            kwargs = {name: here if name == "device" else value for name, value in kwargs.items()}
            return There(func(*args, **kwargs))
        if func in ASKING and isinstance(args[0], There):
            func(*map(_held, args), **kwargs)
            increment_version(args[0])
            return args[0]
        return func(*args, **kwargs) if func is not Tensor.__invert__ else args[0].logical_not()


def _held(x: Any) -> Any:
    return x.held if isinstance(x, There) else x


def _there(x: Any) -> Any:
    return There(x) if isinstance(x, Tensor) else x
