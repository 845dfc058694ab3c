"""The native kernels; everything else about the package is in pyproject.toml.

The extension is optional: where it does not compile, Graftwork is installed without it and warns when it is missed.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension, build_ext
from setuptools import setup

# Without contraction a*b + c rounds twice on every machine, so that all twins give the same bits.
FLAGS = (
    ["/O2", "/fp:precise"]
    if sys.platform == "win32"
    else ["-O3", "-ffp-contract=off", "-fno-trapping-math", "-pthread"]
)

ParallelCompile("NPY_NUM_BUILD_JOBS").install()
setup(
    ext_modules=[
        Pybind11Extension(
            "graftwork.kernels._native",
            sources=sorted(map(str, [*Path("kernels").glob("*.cpp"), *Path("kernels").glob("*/native.cpp")])),
            depends=sorted(map(str, Path("kernels").rglob("*.h"))),
            cxx_std=17,
            extra_compile_args=FLAGS,
            extra_link_args=[] if sys.platform == "win32" else ["-pthread"],
            optional=True,
        )
    ],
    cmdclass={"build_ext": build_ext},
)
