"""Which twin runs, why another one does not, and what is refused outright."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from graftwork.kernels import dispatch
from graftwork.kernels.arrays import as_tensor
from graftwork.kernels.dtypes import FRAMEWORK_NAMES, numpy_dtype, safetensors_name, torch_dtype
from graftwork.kernels.lora_expand import lora_expand
from graftwork.kernels.lora_shrink import lora_shrink
from graftwork.kernels.magnitude_histogram import magnitude_histogram
from graftwork.kernels.nth_equal import nth_equal
from graftwork.kernels.rank_chances import rank_chances
from graftwork.kernels.ties_combine import ties_combine
from graftwork.kernels.weighted_sum import weighted_sum
from graftwork.settings import Settings

ONES = np.ones(8, np.float32)


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, check=False
    )


def test_host_arrays_run_natively_without_torch() -> None:
    done = run_python(
        "import sys, numpy as np, ml_dtypes\n"
        "from graftwork.kernels.catalogue import catalogue, cases\n"
        "for name, kernel in catalogue().items():\n"
        "    for case in cases(name, 'BF16'):\n"
        "        kernel(**case.arguments)\n"
        "assert 'torch' not in sys.modules and 'triton' not in sys.modules\n"
    )
    assert done.returncode == 0, done.stderr


def test_without_the_native_module_the_reference_runs_and_one_warning_says_so() -> None:
    done = run_python(
        "import sys, numpy as np\n"
        "class Hidden:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'graftwork.kernels._native':\n"
        "            raise ModuleNotFoundError('hidden', name=name)\n"
        "sys.meta_path.insert(0, Hidden())\n"
        "from graftwork.kernels.weighted_sum import weighted_sum\n"
        "out = np.empty(3, np.float32)\n"
        "for _ in range(2): weighted_sum(out, [np.ones(3, np.float32)], [2.0])\n"
        "print(out.tolist(), weighted_sum.refusal('native', out))\n"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[2.0, 2.0, 2.0] the native module was not built"
    assert done.stderr.count("installed without a C++ compiler") == 1


@pytest.mark.parametrize(
    ("setting", "arrays", "chosen"),
    [
        ("auto", [ONES], "native"),
        ("auto", [torch.ones(8)], "native"),
        ("auto", [np.ones((8, 2))[:, 0]], "reference"),
        ("auto", [torch.ones(8, device="meta")], "fused"),
        ("native", [torch.ones(8, device="meta")], "reference"),
        ("reference", [ONES], "reference"),
    ],
)
def test_the_fastest_twin_that_takes_the_arguments_is_chosen(
    monkeypatch: pytest.MonkeyPatch, setting: str, arrays: list[Any], chosen: str
) -> None:
    monkeypatch.setattr(dispatch, "_settings", lambda: Settings(kernels=setting))
    assert weighted_sum.choice(arrays) == chosen


def test_a_refusal_names_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    assert weighted_sum.refusal("fused", ONES, [ONES]) == "no array is on a GPU"
    assert "no Triton twin" in str(rank_chances.refusal("fused", torch.ones(1, device="meta")))
    assert weighted_sum.refusal("native", torch.ones(1, device="meta")) == "an array is not in host memory"
    assert weighted_sum.refusal("native", ONES[::2]) == "an array is not contiguous"
    monkeypatch.setattr(dispatch, "_settings", lambda: Settings(kernels="reference"))
    assert weighted_sum.refusal("native", ONES) == "the setting kernels is 'reference'"
    assert weighted_sum.refusal("reference", ONES) is None


def read_only() -> np.ndarray[Any, Any]:
    array = np.ones(8, np.float32)
    array.flags.writeable = False
    return array


I = np.zeros(2, np.int32)  # noqa: E741
MATRIX = np.ones((2, 4), np.float32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: weighted_sum(ONES.copy(), [], []), "there are no inputs"),
        (lambda: weighted_sum(ONES.copy(), [ONES], [1.0, 2.0]), "weights has 2 items for 1 inputs"),
        (lambda: weighted_sum(ONES.copy(), [np.ones(9, np.float32)], [1.0]), r"inputs has shape \(9,\)"),
        (lambda: weighted_sum(ONES.copy(), [np.ones(8, np.int64)], [1.0]), "inputs is I64; the kernels take F64"),
        (lambda: weighted_sum(ONES.copy(), [np.ones(8, ml_dtypes.float8_e5m2)], [1.0]), "inputs is F8_E5M2"),
        (lambda: weighted_sum(read_only(), [ONES], [1.0]), "the output is read-only"),
        (lambda: weighted_sum(np.ones((8, 2), np.float32)[:, 0], [ONES], [1.0]), "the output is not contiguous"),
        (lambda: magnitude_histogram(ONES, prefix=1 << 15), "prefix is 32768"),
        (lambda: nth_equal(ONES, None, 0, -1), "n is -1"),
        (lambda: ties_combine(ONES.copy(), ONES, [ONES], [1.0], [0], [0], 0, vote="loud"), "vote is 'loud'"),  # type: ignore[arg-type]
        (lambda: ties_combine(ONES.copy(), ONES, [ONES], [1.0], [0], [0], 0, divide="x"), "divide is 'x'"),  # type: ignore[arg-type]
        (lambda: lora_shrink(MATRIX, np.ones((3, 5), np.float32), I, I, I), "the tokens have width 4, the pool 5"),
        (lambda: lora_shrink(MATRIX, MATRIX, I, I, I[:1]), "slot has 1 items for 2 tokens"),
        (lambda: lora_shrink(MATRIX, MATRIX, I, I, I.astype(np.int64)), "slot must be a vector of I32"),
        (lambda: lora_expand(MATRIX.copy(), MATRIX[:1], MATRIX, I, I, I), "h must be F32 with 2 rows"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_by_name(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(("start", "rank", "slot"), [(0, 3, 0), (-1, 2, 0), (1, 2, 0), (0, 1, 5), (0, -1, 0)])
def test_rows_and_slots_that_do_not_exist_are_an_error(start: int, rank: int, slot: int) -> None:
    with pytest.raises(IndexError, match=r"do(es)? not exist"):
        lora_shrink(
            MATRIX, MATRIX, np.array([start], np.int32), np.array([rank], np.int32), np.array([-1, slot], np.int32), 4
        )


@pytest.mark.parametrize("name", FRAMEWORK_NAMES)
def test_a_dtype_has_one_name_in_numpy_and_in_torch(name: str) -> None:
    assert safetensors_name(numpy_dtype(name)) == safetensors_name(torch_dtype(name)) == name
    array = np.array([0, 1, 1, 0]).astype(numpy_dtype(name))
    tensor = as_tensor(array)
    assert tensor.dtype == torch_dtype(name)
    assert tensor.data_ptr() == array.ctypes.data
    assert tensor.double().tolist() == [0.0, 1.0, 1.0, 0.0]


def test_a_dtype_that_safetensors_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match="complex64 is not one of the dtypes float64"):
        safetensors_name(np.dtype(np.complex64))
    with pytest.raises(ValueError, match="'F128' is not one of the safetensors dtypes"):
        numpy_dtype("F128")
