"""Coefficients by tensor name, from a JSON or a safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError

from graftwork.errors import GraftworkError
from graftwork.kernels.dtypes import FLOATS, numpy_dtype
from graftwork.merge.recipe.parameters import explain
from graftwork.registry.formats.safetensors import read_header

Coefficients = Mapping[str, tuple[float, ...]]
VECTORS = TypeAdapter(dict[str, list[float]])
LARGEST = 64_000_000


def load_coefficients(path: str) -> Coefficients:
    """The numbers under each tensor's name: a JSON object of lists, or a safetensors file of vectors.

    Raises ValueError, with the end of a sentence, for a file that is not there, too large, or holds something else.
    """
    file = Path(path).expanduser()
    try:
        status = file.stat()
    except OSError:
        raise ValueError(f"there is no file {path}") from None
    if status.st_size > LARGEST:
        raise ValueError(f"{path} has {status.st_size} bytes; coefficients take at most {LARGEST}")
    return _load(file, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4)
def _load(file: Path, size: int, modified: int) -> Coefficients:
    if file.suffix not in (".json", ".safetensors"):
        raise ValueError(f"{file} is neither a .json nor a .safetensors file")
    try:
        found = _from_json(file) if file.suffix == ".json" else _from_safetensors(file)
    except (GraftworkError, OSError, ValueError) as error:
        raise ValueError(f"{file} holds no coefficients: {error}") from None
    for name, values in found.items():
        if not np.isfinite(values).all():
            raise ValueError(f"{file} holds a coefficient for {name} that is not a finite number")
    return found


def _from_json(file: Path) -> Coefficients:
    raw = json.loads(file.read_text(encoding="utf-8"))
    try:
        found = VECTORS.validate_python(raw, strict=True)
    except ValidationError as error:
        raise ValueError(f"expected an object of lists of numbers by tensor name; {explain(error)}") from None
    return {name: tuple(values) for name, values in found.items()}


def _from_safetensors(file: Path) -> Coefficients:
    data = file.read_bytes()
    found = {}
    for name, info in read_header(file).tensors.items():
        if info.dtype not in FLOATS or len(info.shape) != 1:
            raise ValueError(f"{name} is {info.dtype} {list(info.shape)}; expected a vector of floats")
        vector = np.frombuffer(data[info.begin : info.end], numpy_dtype(info.dtype))
        found[name] = tuple(float(value) for value in vector)
    return found
