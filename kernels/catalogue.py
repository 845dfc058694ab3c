"""Every kernel, found by its folder."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from graftwork.kernels.case import Case
from graftwork.kernels.dispatch import Kernel

TORCH_ON_GPU = {
    "all_finite": "a merge asks it of what has landed in host memory",
    "gated_product": "models on a GPU keep their own activations",
    "linear": "its matrix product is that of torch's BLAS",
    "paged_attention": "its products and its softmax are those of torch, over what one gather has read",
    "paged_store": "torch scatters rows",
    "rms_norm": "models on a GPU keep their own norms",
    "rank_chances": "torch sorts the rows of a GPU's tensor by radix, stably",
    "rotary_embedding": "models on a GPU keep their own positions",
}
"""The kernels without a Triton twin, and why their reference serves tensors on a GPU as well."""


def catalogue() -> dict[str, Kernel[..., Any]]:
    """The kernels by name: each folder with a `reference.py` declares the kernel it is named after."""
    names = sorted(file.parent.name for file in Path(__file__).parent.glob("*/reference.py"))
    return {name: getattr(importlib.import_module(f"graftwork.kernels.{name}"), name) for name in names}


def cases(kernel: str, dtype: str) -> Iterator[Case]:
    """Calls that cover the borders of a kernel, their inputs in a safetensors dtype."""
    yield from importlib.import_module(f"graftwork.kernels.{kernel}.cases").cases(dtype)


def workload(kernel: str, dtype: str) -> Case:
    """One call large enough to time."""
    case: Case = importlib.import_module(f"graftwork.kernels.{kernel}.cases").workload(dtype)
    return case
