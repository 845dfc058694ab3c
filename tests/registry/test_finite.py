from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from graftwork.errors import NonFiniteTensor
from graftwork.registry.formats.finite import CHUNK_BYTES, check_finite
from graftwork.registry.formats.safetensors import read_header
from graftwork.registry.refs import Name, Ref
from graftwork.registry.registry import Registry
from graftwork.registry.transfer.importer import import_source

FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def check(path: Path) -> None:
    check_finite(path, read_header(path), label=path.name)


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_largest_and_the_smallest_numbers_are_finite(tmp_path: Path, dtype: torch.dtype) -> None:
    info = torch.finfo(dtype)
    values = torch.tensor([info.max, info.min, info.tiny, info.smallest_normal / 2, 0.0, -0.0], dtype=dtype)
    save_file({"values": values, "counts": torch.tensor([2**62]), "empty": values[:0]}, tmp_path / "a.safetensors")
    check(tmp_path / "a.safetensors")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", FLOATS)
def test_each_value_that_is_not_finite_is_counted_in_its_tensor(tmp_path: Path, dtype: torch.dtype, bad: float) -> None:
    values = torch.zeros(CHUNK_BYTES // dtype.itemsize + 7, dtype=dtype)
    values[3] = values[-1] = bad
    save_file({"good": torch.ones(3, dtype=dtype), "worse": values}, tmp_path / "a.safetensors")
    with pytest.raises(NonFiniteTensor, match=r"'worse' of a\.safetensors holds 2 NaN"):
        check(tmp_path / "a.safetensors")


def test_an_adapter_with_a_nan_is_not_registered(
    local_registry: Registry, family: dict[str, Path], adapter: Path, contents: Callable[[], set[str]]
) -> None:
    import_source(local_registry, str(family["base"]), Name("acme", "base"))
    before = contents()
    path = adapter / "adapter_model.safetensors"
    header = read_header(path)
    info = next(iter(header.tensors.values()))
    with path.open("r+b") as file:
        file.seek(info.begin)
        file.write(b"\x00\x00\xc0\x7f")
    with pytest.raises(NonFiniteTensor, match=info.name):
        import_source(local_registry, str(adapter), Name("acme", "lora"), base=Ref.parse("acme/base"))
    assert contents() == before
