"""What a kernel is given: numpy arrays on the host, torch tensors anywhere, told apart without importing torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

import numpy as np

from graftwork.kernels.dtypes import FLOATS, numpy_dtype, safetensors_name, torch_dtype

if TYPE_CHECKING:
    import torch

    Array: TypeAlias = np.ndarray[Any, Any] | torch.Tensor
else:
    Array: TypeAlias = object


_PLAIN = {int, float, bool, str, type(None)}
"""What the arguments of kernels are besides arrays."""
_SEQUENCES = (list, tuple)


def is_array(value: object) -> TypeGuard[Array]:
    """Whether `value` is a numpy array or a torch tensor."""
    return type(value) not in _PLAIN and (isinstance(value, np.ndarray) or hasattr(value, "data_ptr"))


def arrays_in(values: Sequence[object]) -> list[Array]:
    """The arrays among the arguments of a kernel, those in lists and tuples too."""
    found: list[Array] = []
    for value in values:
        if type(value) in _PLAIN:
            continue
        if isinstance(value, _SEQUENCES):
            found += arrays_in(value)
        elif is_array(value):
            found.append(value)
    return found


def with_arrays(value: Any, convert: Callable[[Array], Any]) -> Any:
    """`value` with `convert` applied to each array in it."""
    if type(value) in _PLAIN:
        return value
    if isinstance(value, _SEQUENCES):
        return [with_arrays(item, convert) for item in value]
    return convert(value) if is_array(value) else value


def device(array: Array) -> str:
    """`cpu`, or the device type of a torch tensor."""
    return "cpu" if isinstance(array, np.ndarray) or array.is_cpu else array.device.type  # told faster than named


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


def integers(rows: Sequence[Sequence[int]], like: torch.Tensor) -> torch.Tensor:
    """Numbers below 2**63 as int64 [rows, columns] on the device of `like`, queued without waiting for it.

    Triton compiles a kernel anew for every kind of number among its arguments, and for hardly any in memory.
    """
    import torch

    host = torch.tensor(rows, dtype=torch.int64, pin_memory=like.is_cuda)
    return host.to(like.device, non_blocking=True)


def on_host(array: Array) -> np.ndarray[Any, Any]:
    """The array in host memory: itself where it is a numpy array, a copy of a torch tensor."""
    if isinstance(array, np.ndarray):
        return array
    import torch

    bits = getattr(torch, f"int{8 * array.itemsize}")  # numpy cannot read all dtypes of torch
    host: np.ndarray[Any, Any] = array.contiguous().cpu().view(bits).numpy()
    return host.view(numpy_dtype(safetensors_name(array.dtype)))


def beside(array: Array, like: Array) -> Array:
    """The array on the device of `like`: itself where both are numpy arrays."""
    return array if isinstance(like, np.ndarray) else as_tensor(array).to(like.device)


def reinterpreted(array: Array, dtype: str) -> Any:
    """The same memory as elements of another safetensors dtype."""
    return array.view(numpy_dtype(dtype)) if isinstance(array, np.ndarray) else array.view(torch_dtype(dtype))


def zeros(shape: Sequence[int], dtype: str, like: Array) -> Array:
    """An array of zeros of a safetensors dtype, of the kind and on the device of `like`."""
    array = empty(shape, dtype, like)
    array[...] = 0
    return array


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
