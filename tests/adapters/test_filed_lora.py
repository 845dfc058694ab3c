from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file

from graftwork.adapters.changes import Factors
from graftwork.adapters.residency import filed
from graftwork.adapters.residency.filed import FiledLora, is_plain
from graftwork.errors import InputChanged
from graftwork.registry.formats.peft import CONFIG_FILE, WEIGHTS_FILE, read_adapter

if TYPE_CHECKING:
    from tests.adapters.conftest import Family


def plain(folder: Path) -> FiledLora:
    layout = read_adapter(folder)
    assert is_plain(layout)
    return FiledLora(layout, layout.foldable)


def written(adapter: FiledLora, dtype: torch.dtype) -> dict[str, Factors]:
    return {name: change.low_rank for name, change in adapter.lowered(dtype).changes.items() if change.low_rank}


def by_safetensors(adapter: FiledLora, dtype: torch.dtype) -> dict[str, Factors]:
    tensors = load_file(adapter.layout.root / WEIGHTS_FILE)
    return {
        name: Factors(tensors[module.a].to(dtype), (tensors[module.b].float() * module.scale).T.to(dtype))
        for name, module in adapter.modules.items()
    }


def assert_same(found: dict[str, Factors], wanted: dict[str, Factors]) -> None:
    assert found.keys() == wanted.keys()
    for name, factors in wanted.items():
        assert torch.equal(found[name].a, factors.a), name
        assert torch.equal(found[name].b, factors.b), name


def with_longer_header(folder: Path, copy: Path, bytes_more: int) -> Path:
    """The same adapter, its values that many bytes further on."""
    copy.mkdir()
    (copy / CONFIG_FILE).write_bytes((folder / CONFIG_FILE).read_bytes())
    content = (folder / WEIGHTS_FILE).read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + length])).encode()
    header += b" " * (-len(header) % 8 + bytes_more)
    (copy / WEIGHTS_FILE).write_bytes(len(header).to_bytes(8, "little") + header + content[8 + length :])
    return copy


@pytest.mark.parametrize("name", ["attention", "everything", "pattern"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_factors_are_those_of_the_file(family: Family, name: str, dtype: torch.dtype) -> None:
    adapter = plain(family.adapters[name])
    assert_same(written(adapter, dtype), by_safetensors(adapter, dtype))


@pytest.mark.parametrize("buffer", [1, 5_000, 20_000])
@pytest.mark.parametrize("more", [0, 3])
def test_nothing_hangs_on_how_much_is_read_at_once_nor_on_where_values_lie(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, buffer: int, more: int
) -> None:
    monkeypatch.setattr(filed, "READ_BYTES", buffer)
    monkeypatch.setattr(filed, "BUFFER_BYTES", 10_000)
    monkeypatch.setattr(filed, "_kept", type(filed._kept)())
    adapter = plain(with_longer_header(family.adapters["everything"], tmp_path / "copy", more))
    assert next(iter(adapter.layout.header.tensors.values())).begin % 8 == more
    assert_same(written(adapter, torch.float32), by_safetensors(adapter, torch.float32))


def test_only_the_modules_that_have_a_name_are_written(family: Family) -> None:
    adapter = plain(family.adapters["everything"])
    wanted = by_safetensors(adapter, torch.float32)
    some = adapter.renamed(lambda name: f"trunk.{name}" if "v_proj" in name else None)
    assert_same(
        written(some, torch.float32), {f"trunk.{name}": each for name, each in wanted.items() if "v_proj" in name}
    )
    assert adapter.renamed(lambda name: None).rank == 0


def test_a_file_that_was_cut_short_since_it_was_checked_is_refused(family: Family, tmp_path: Path) -> None:
    adapter = plain(with_longer_header(family.adapters["mlp"], tmp_path / "copy", 0))
    path = adapter.layout.root / WEIGHTS_FILE
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputChanged):
        adapter.lowered(torch.float32)
