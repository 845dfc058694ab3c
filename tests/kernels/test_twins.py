"""Every twin of every kernel gives what the reference gives, on the kernel's own cases."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from graftwork.kernels.arrays import Array, as_tensor, with_arrays
from graftwork.kernels.case import Case, HostArray
from graftwork.kernels.catalogue import TORCH_ON_GPU, cases, catalogue, workload
from graftwork.kernels.dispatch import forced, native_module
from graftwork.kernels.dtypes import FLOATS
from graftwork.kernels.tolerance import EXACT, Tolerance, tolerance

KERNELS = catalogue()
HAS_TRITON = importlib.util.find_spec("triton") is not None
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
"""Where the Triton twins run; on the CPU in its interpreter."""
INTERPRETED = (
    "axis_weighted_sum",
    "consensus_combine",
    "nearswap",
    "ram_combine",
    "sparse_combine",
    "ties_combine",
    "weighted_sum",
)
"""Elementwise kernels that write bfloat16, which the interpreter truncates where a GPU rounds."""

ORDERED = ("abs_sum", "gram", "row_gram")
"""Kernels whose lanes add element after element, on a GPU as in native code; the interpreter takes a second a block."""


def takes_long(name: str, twin: str, case: Case) -> bool:
    """Whether the interpreter would be at it for seconds."""
    return DEVICE == "cpu" and twin == "fused" and name in ORDERED and case.nbytes > 4_000


def twins() -> Iterator[tuple[str, str, str]]:
    for name, kernel in KERNELS.items():
        yield from ((name, dtype, "native") for dtype in FLOATS)
        if kernel.has_fused:
            yield from ((name, dtype, "fused") for dtype in ("F32", "F16", "BF16"))


def result(name: str, twin: str, case: Case, device: str | None) -> HostArray:
    """What a twin returns or writes, in float64; given tensors on `device`, or numpy arrays."""
    arguments = {
        key: with_arrays(value, lambda array: as_tensor(np.array(array)).to(device) if device else np.array(array))
        for key, value in case.arguments.items()
    }
    with forced(twin):
        returned = KERNELS[name](**arguments)
    value = arguments[case.writes] if case.writes else returned
    return np.asarray(value.double().cpu() if isinstance(value, torch.Tensor) else value, np.float64)


def interpretable(case: Case) -> Case:
    """The case without subnormals, which Triton's interpreter reads as 0 in bfloat16."""

    def flush(array: Array) -> HostArray:
        host = np.asarray(array)
        tiny = np.abs(host.astype(np.float32)) < np.finfo(np.float32).tiny
        return np.where(tiny, np.zeros_like(host), host)

    return replace(case, arguments={key: with_arrays(value, flush) for key, value in case.arguments.items()})


@pytest.mark.parametrize(("name", "dtype", "twin"), list(twins()))
def test_a_twin_gives_what_the_reference_gives(name: str, dtype: str, twin: str) -> None:
    exact = twin == "fused" and name in ORDERED
    allowed = EXACT if exact else tolerance(name, dtype)
    interpreted_bfloat16 = twin == "fused" and dtype == "BF16" and DEVICE == "cpu"
    if interpreted_bfloat16 and name in INTERPRETED:
        allowed = Tolerance(rtol=2**-7)  # the interpreter truncates where a GPU rounds
    for case in cases(name, dtype):
        if takes_long(name, twin, case):
            continue
        if interpreted_bfloat16:
            case = interpretable(case)
        expected = result(name, "native" if exact else "reference", case, "cpu")
        actual = result(name, twin, case, DEVICE if twin == "fused" else None)
        np.testing.assert_allclose(
            actual, expected, rtol=allowed.rtol, atol=allowed.atol, equal_nan=True, err_msg=f"{name} {case.name}"
        )
        if allowed.rtol == 0:
            np.testing.assert_array_equal(
                np.signbit(actual)[~np.isnan(actual)], np.signbit(expected)[~np.isnan(expected)]
            )


@pytest.mark.gpu
@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_a_gpu_gives_what_the_processor_gives(name: str, dtype: str) -> None:
    allowed = tolerance(name, dtype)
    for case in (*cases(name, dtype), workload(name, dtype)):
        for twin in ("fused", "reference") if KERNELS[name].has_fused else ("reference",):
            exact = allowed == EXACT or (twin == "fused" and name in ORDERED)
            expected = result(name, "native", case, None) if exact else result(name, "reference", case, "cpu")
            bounds = EXACT if exact else allowed
            actual = result(name, twin, case, "cuda")
            np.testing.assert_allclose(
                actual, expected, rtol=bounds.rtol, atol=bounds.atol, equal_nan=True, err_msg=f"{twin} {case.name}"
            )


@pytest.mark.parametrize("name", KERNELS)
def test_native_gives_the_same_bits_from_tensors_and_from_arrays(name: str) -> None:
    for case in cases(name, "BF16"):
        np.testing.assert_array_equal(result(name, "native", case, "cpu"), result(name, "native", case, None))


@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_folder_is_complete(name: str) -> None:
    folder = Path(__file__).parents[2] / "kernels" / name
    assert {"__init__.py", "reference.py", "native.cpp", "cases.py"} <= {file.name for file in folder.iterdir()}
    assert hasattr(native_module(), name)


def test_every_kernel_has_a_triton_twin_or_says_why_not() -> None:
    without = {name for name, kernel in KERNELS.items() if not kernel.has_fused}
    assert without == (set(TORCH_ON_GPU) if HAS_TRITON else set(KERNELS))


@pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed (the extra 'gpu')")
def test_ordered_sums_begin_anew_at_the_borders_of_blocks() -> None:
    values = np.random.default_rng(0).normal(size=65_700).astype(np.float32)
    case = Case("border", {"x": values, "base": None})
    np.testing.assert_array_equal(result("abs_sum", "fused", case, DEVICE), result("abs_sum", "native", case, None))
    rows = Case("border within", {"inputs": [values[:900]], "columns": 700, "offset": 65_000, "base": None})
    native = result("row_gram", "native", rows, None)
    assert len(native) == 4
    np.testing.assert_array_equal(result("row_gram", "fused", rows, DEVICE), native)
