"""The dtypes of safetensors, numpy (with ml_dtypes) and torch under one set of names.

numpy and torch call every dtype here alike, so one table serves both. torch is imported only when one of its dtypes is
asked for.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

if TYPE_CHECKING:
    import torch

FRAMEWORK_NAMES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}
"""The name that numpy and torch give to each safetensors dtype."""

SAFETENSORS_NAMES = {framework: name for name, framework in FRAMEWORK_NAMES.items()}
FLOATS = ("F64", "F32", "F16", "BF16")
"""What the kernels take as weights and activations."""

_ML_DTYPES = ("bfloat16", "float8_e4m3fn", "float8_e5m2")


@cache
def numpy_dtype(name: str) -> np.dtype[Any]:
    """The numpy dtype called `name` in safetensors; the ones that numpy lacks come from ml_dtypes.

    Raises ValueError for a name that is not in `FRAMEWORK_NAMES`.
    """
    framework = _framework_name(name)
    return np.dtype(getattr(ml_dtypes, framework) if framework in _ML_DTYPES else framework)


def torch_dtype(name: str) -> torch.dtype:
    """The torch dtype called `name` in safetensors. Imports torch. Raises ValueError as `numpy_dtype` does."""
    import torch

    dtype: torch.dtype = getattr(torch, _framework_name(name))
    return dtype


@cache
def safetensors_name(dtype: np.dtype[Any] | torch.dtype) -> str:
    """What safetensors calls a numpy or a torch dtype. Raises ValueError for one it cannot hold."""
    framework = dtype.name if isinstance(dtype, np.dtype) else str(dtype).removeprefix("torch.")
    if framework not in SAFETENSORS_NAMES:
        raise ValueError(f"{framework} is not one of the dtypes {', '.join(SAFETENSORS_NAMES)}")
    return SAFETENSORS_NAMES[framework]


def _framework_name(name: str) -> str:
    if name not in FRAMEWORK_NAMES:
        raise ValueError(f"{name!r} is not one of the safetensors dtypes {', '.join(FRAMEWORK_NAMES)}")
    return FRAMEWORK_NAMES[name]
