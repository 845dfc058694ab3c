"""Every Triton twin compiles for a GPU, as its kernels are launched: the interpreter takes more than the compiler."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

from graftwork.kernels.catalogue import catalogue
from graftwork.kernels.tolerance import EXACT, tolerance

LAUNCH = r"""
import re, warnings
from types import SimpleNamespace

import numpy as np
from triton.backends.compiler import GPUTarget
from triton.runtime import JITFunction, driver

from graftwork.kernels.arrays import as_tensor, with_arrays
from graftwork.kernels.catalogue import cases, catalogue
from graftwork.kernels.dispatch import forced
from graftwork.kernels.sparse_combine import Mask, sparse_combine
from graftwork.kernels.ties_combine import ties_combine

warnings.simplefilter("error")
target = GPUTarget("cuda", 90, 32)
driver.set_active(SimpleNamespace(
    get_current_target=lambda: target, get_current_device=lambda: 0, get_current_stream=lambda device: 0
))
compiled, inexact, built = set(), {}, set()
run = JITFunction.run


def compile_only(self, *args, grid, warmup, **options):
    kernel = run(self, *args, grid=grid, warmup=True, **options)
    name = self.fn.__module__.split(".")[-2]
    built.add(kernel.hash)
    if "cubin" in kernel.asm:
        compiled.add(name)
    found = re.findall(r"fma\.rn\.f32|\w+\.ftz\.\w+|div\.(?:full|approx)\.\w+", kernel.asm["ptx"])
    inexact.setdefault(name, set()).update(found)
    return kernel


JITFunction.run = compile_only
for name, kernel in catalogue().items():
    if kernel.has_fused:
        case = max(cases(name, "BF16"), key=lambda case: case.nbytes)
        arguments = {key: with_arrays(value, lambda x: as_tensor(np.array(x))) for key, value in case.arguments.items()}
        with forced("fused"):
            kernel(**arguments)
built.clear()
x = as_tensor(np.zeros(4096, np.float32))
for number in (0, 1, 16, 12345, 0x7F800000):
    cutoffs = [2**63 - 1, number]
    with forced("fused"):
        ties_combine(x.clone(), x, [x, x], [1.0, 2.0], [number, 7], cutoffs, 65536)
        masks = [Mask(number, cutoff, key=number << 31, chance=0.5) for cutoff in cutoffs]
        sparse_combine(x.clone(), x, [x, x], [1.0, 2.0], masks, 65536)
print(*sorted(compiled))
print(*sorted(name for name, found in inexact.items() if found))
print(len(built))
"""
SHARED = {"abs_sum": "gram", "row_gram": "gram"}
"""Kernels that launch what another one's module declares."""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed (the extra 'gpu')")
def test_triton_twins_compile_once_for_hopper_and_exact_ones_round_every_operation() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", LAUNCH], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    fused = {name for name, kernel in catalogue().items() if kernel.has_fused}
    compiled, inexact, built = (set(line.split()) for line in done.stdout.splitlines())
    assert compiled == {SHARED.get(name, name) for name in fused}
    assert not {name for name in inexact if tolerance(name, "BF16") == EXACT}
    assert "gram" not in inexact
    assert built == {"2"}  # ties_combine and sparse_combine, whatever the thresholds, cutoffs and keys
