"""One public function per operation, carried out by the best of up to three twins.

`kernels/<op>/__init__.py` declares the operation: its docstring is the specification, its body checks the arguments,
allocates what it returns and calls `run`. The twins take the same arguments as `run`:

    reference    <op>/reference.py   plain torch, runs anywhere, the specification in code
    native       <op>/native.cpp     contiguous arrays in host memory
    fused        <op>/fused.py       Triton: contiguous tensors on a GPU

torch is imported only when the reference or a Triton twin runs.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, cached_property, update_wrapper
from types import ModuleType
from typing import Any, Generic, ParamSpec, TypeVar

import numpy as np

from graftwork.kernels.arrays import Array, address, arrays_in, as_tensor, device, is_contiguous, with_arrays
from graftwork.kernels.dtypes import safetensors_name
from graftwork.settings import Settings, load_settings

P = ParamSpec("P")
R = TypeVar("R")
Twin = Callable[..., Any]

TWINS = ("fused", "native", "reference")
"""Fastest first."""

NATIVE = "graftwork.kernels._native"
_forced: ContextVar[str | None] = ContextVar("forced_twin", default=None)


@contextmanager
def forced(twin: str) -> Iterator[None]:
    """Every kernel called within runs this twin, refused or not."""
    token = _forced.set(twin)
    try:
        yield
    finally:
        _forced.reset(token)


class Kernel(Generic[P, R]):
    """An operation on arrays; calling it runs the first twin that does not refuse the arguments."""

    def __init__(self, declaration: Callable[P, R]) -> None:
        self.name = declaration.__name__
        self._declaration = declaration
        self._package = declaration.__module__
        self._twins: dict[str, Twin] = {}
        update_wrapper(self, declaration)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Check the arguments, then run."""
        return self._declaration(*args, **kwargs)

    def run(self, *args: Any) -> Any:
        """Hand checked arguments to a twin; what the declaration calls."""
        return self.twin(self.choice(*args))(*args)

    def choice(self, *args: object) -> str:
        """The twin that takes these arguments."""
        forced_twin = _forced.get()
        if forced_twin is not None:
            return forced_twin
        arrays = arrays_in(args)
        return next(twin for twin in TWINS if self._refusal(twin, arrays) is None)

    def refusal(self, twin: str, *args: object) -> str | None:
        """Why `twin` does not take these arguments; None when it does."""
        return self._refusal(twin, arrays_in(args))

    def _refusal(self, twin: str, arrays: list[Array]) -> str | None:
        if twin == "reference":
            return None
        allowed = _settings().kernels
        if allowed == "reference" or (allowed == "native" and twin == "fused"):
            return f"the setting kernels is {allowed!r}"
        refusal = self._fused_refusal(arrays) if twin == "fused" else self._native_refusal(arrays)
        if refusal is None and not all(map(is_contiguous, arrays)):
            return "an array is not contiguous"
        return refusal

    def twin(self, name: str) -> Twin:
        """The function behind one twin; it takes numpy arrays and torch tensors."""
        if name not in self._twins:
            self._twins[name] = self._on_addresses() if name == "native" else self._on_tensors(name)
        return self._twins[name]

    @cached_property
    def has_fused(self) -> bool:
        """Whether the operation has a Triton twin and Triton is installed."""
        return bool(importlib.util.find_spec(f"{self._package}.fused") and importlib.util.find_spec("triton"))

    def _fused_refusal(self, arrays: list[Array]) -> str | None:
        if set(map(device, arrays)) <= {"cpu"}:
            return "no array is on a GPU"
        return None if self.has_fused else f"{self.name} has no Triton twin, or Triton is not installed"

    def _native_refusal(self, arrays: list[Array]) -> str | None:
        if not set(map(device, arrays)) <= {"cpu"}:
            return "an array is not in host memory"
        return "the native module was not built" if native_module() is None else None

    def _on_tensors(self, module: str) -> Twin:
        function = getattr(importlib.import_module(f"{self._package}.{module}"), self.name)
        return lambda *args: function(*with_arrays(args, as_tensor))

    def _on_addresses(self) -> Twin:
        module = native_module()
        if module is None:
            raise ModuleNotFoundError(f"{NATIVE} was not built", name=NATIVE)
        function = getattr(module, self.name)

        return lambda *args: function(*with_arrays(args, native_view))


def kernel(declaration: Callable[P, R]) -> Kernel[P, R]:
    """Make the declaration of an operation its public, dispatching function."""
    return Kernel(declaration)


@cache
def native_module() -> ModuleType | None:
    """The compiled twins, or None with one warning where the package was installed without a compiler."""
    try:
        module = importlib.import_module(NATIVE)
    except ModuleNotFoundError as error:
        if error.name != NATIVE:
            raise
        warnings.warn(
            "Graftwork was installed without a C++ compiler: its kernels run in plain torch, many times slower. "
            "Install a compiler, then reinstall graftwork.",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    module.set_threads(_settings().threads)
    return module


def native_view(array: Array, shape: Sequence[int] | None = None) -> Any:
    """A contiguous array in host memory as the native module takes it, of as many elements in another shape if given.

    It does not keep the array alive. There must be a native module.
    """
    module: Any = native_module()
    if isinstance(array, np.ndarray) and shape is None:  # whose address takes longer to ask for here than there
        return module.Array(array, safetensors_name(array.dtype))
    return module.Array(address(array), safetensors_name(array.dtype), array.shape if shape is None else shape)


@cache
def _settings() -> Settings:
    return load_settings()
