"""What a kernel is given: numpy arrays on the host, torch tensors anywhere, told apart without importing torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

import numpy as np

from graftwork.kernels.dtypes import FLOATS, numpy_dtype, safetensors_name, torch_dtype

if TYPE_CHECKING:
    import torch

    Array: TypeAlias = np.ndarray[Any, Any] | torch.Tensor
else:
    Array: TypeAlias = object


_PLAIN = {int, float, bool, str, tuple, list, type(None)}
"""What the arguments of kernels are besides arrays."""


def is_array(value: object) -> TypeGuard[Array]:
    """Whether `value` is a numpy array or a torch tensor."""
    return isinstance(value, np.ndarray) or (type(value) not in _PLAIN and hasattr(value, "data_ptr"))


def arrays_in(values: Sequence[object]) -> Iterator[Array]:
    """The arrays among the arguments of a kernel, those in lists and tuples too."""
    for value in values:
        if is_array(value):
            yield value
        elif isinstance(value, list | tuple):
            yield from arrays_in(value)


def with_arrays(value: Any, convert: Callable[[Array], Any]) -> Any:
    """`value` with `convert` applied to each array in it."""
    if is_array(value):
        return convert(value)
    if isinstance(value, list | tuple):
        return [with_arrays(item, convert) for item in value]
    return value


def device(array: Array) -> str:
    """`cpu`, or the device type of a torch tensor."""
    return "cpu" if isinstance(array, np.ndarray) else array.device.type


def is_contiguous(array: Array) -> bool:
    """Whether the elements lie in memory in index order, without gaps."""
    return array.flags.c_contiguous if isinstance(array, np.ndarray) else array.is_contiguous()


def address(array: Array) -> int:
    """Where the first element lies in memory."""
    return array.ctypes.data if isinstance(array, np.ndarray) else array.data_ptr()


def as_tensor(array: Array) -> torch.Tensor:
    """The array as a torch tensor that shares its memory; a read-only numpy array is copied."""
    if not isinstance(array, np.ndarray):
        return array
    import torch

    if not array.flags.writeable:
        array = array.copy()
    bits = array.view(f"i{array.itemsize}")  # torch cannot read the dtypes of ml_dtypes
    return torch.from_numpy(bits).view(torch_dtype(safetensors_name(array.dtype)))


def empty(shape: Sequence[int], dtype: str, like: Array) -> Array:
    """An uninitialised array of a safetensors dtype, of the kind and on the device of `like`."""
    if isinstance(like, np.ndarray):
        return np.empty(shape, numpy_dtype(dtype))
    return like.new_empty(shape, dtype=torch_dtype(dtype))


def check_slices(**named: Array | Sequence[Array] | None) -> None:
    """Every array among the arguments must be floating point and of one shape.

    Raises ValueError that names the argument which is not.
    """
    shape: tuple[int, ...] | None = None
    for argument, value in named.items():
        for array in arrays_in([value]):
            dtype = safetensors_name(array.dtype)
            if dtype not in FLOATS:
                raise ValueError(f"{argument} is {dtype}; the kernels take {', '.join(FLOATS)}")
            shape = tuple(array.shape) if shape is None else shape
            if tuple(array.shape) != shape:
                raise ValueError(f"{argument} has shape {tuple(array.shape)}, the others {shape}")


def check_output(out: Array) -> None:
    """`out` must be contiguous and writeable. Raises ValueError."""
    if not is_contiguous(out):
        raise ValueError("the output is not contiguous")
    if isinstance(out, np.ndarray) and not out.flags.writeable:
        raise ValueError("the output is read-only")


def check_counts(expected: int, **named: Sequence[object]) -> None:
    """Every sequence must hold `expected` items, one per input. Raises ValueError that names the one that does not."""
    if expected == 0:
        raise ValueError("there are no inputs")
    for argument, values in named.items():
        if len(values) != expected:
            raise ValueError(f"{argument} has {len(values)} items for {expected} inputs")
