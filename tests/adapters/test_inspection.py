"""What is told of an adapter's weights, against the decomposition of the changes as whole matrices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from graftwork.adapters.inspection.duplicates import products
from graftwork.adapters.inspection.inspection import ModuleReport, inspect, shapes_of
from graftwork.adapters.variants.lora import LoraAdapter, LoraFactors, save_lora
from graftwork.adapters.variants.variant import read_variant
from graftwork.registry.formats.checkpoint import read_checkpoint
from graftwork.registry.formats.peft import AdapterLayout, read_adapter
from graftwork.testing.formats import llama_formats, write_folder, write_peft

if TYPE_CHECKING:
    from tests.adapters.conftest import Family

Q, DOWN = "model.layers.0.self_attn.q_proj", "model.layers.11.mlp.down_proj"
Write = Callable[..., AdapterLayout]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(name: str, modules: dict[str, LoraFactors]) -> AdapterLayout:
        (tmp_path / name).mkdir()
        save_lora(LoraAdapter(name, modules), tmp_path / name, base_model=None)
        return read_adapter(tmp_path / name)

    return written


def random_factors(seed: int, out: int = 24, width: int = 40, rank: int = 5) -> LoraFactors:
    random = np.random.default_rng(seed)
    shapes = (rank, width), (out, rank)
    a, b = (random.standard_normal(shape).astype(np.float32) for shape in shapes)
    return LoraFactors(a, b)


def test_the_spectrum_is_that_of_the_whole_change(write: Write) -> None:
    pairs = {Q: random_factors(1), DOWN: random_factors(2, rank=3)}
    report = inspect(write("a", pairs))
    for module, pair in zip(report.modules, pairs.values(), strict=True):
        values = np.linalg.svd(pair.b.astype(np.float64) @ pair.a, compute_uv=False)
        np.testing.assert_allclose(module.singular_values, values[: pair.rank], rtol=1e-10)
        assert module.norm == pytest.approx(np.linalg.norm(values))
        shares = values[: pair.rank] / values.sum()
        assert module.effective_rank == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))
        assert module.energy(2) == pytest.approx((values[:2] ** 2).sum() / (values**2).sum())
        assert module.energy(pair.rank) == pytest.approx(1)
    assert list(report.layers) == [0, 11]
    assert report.rank == 5
    assert report.norm == pytest.approx(np.linalg.norm([module.norm for module in report.modules]))
    kept = sum(module.energy(1) * module.norm**2 for module in report.modules)
    assert report.energy(1) == pytest.approx(kept / report.norm**2)


def test_the_effective_rank_counts_equal_directions() -> None:
    equal = ModuleReport("m", "LoRA", 2, 0, 6, (2.0, 2.0, 2.0, 0.0, 0.0, 0.0))
    assert equal.effective_rank == pytest.approx(3)
    assert ModuleReport("m", "LoRA", 2, 0, 2, (0.0, 0.0)).effective_rank == 0
    assert ModuleReport("m", "LoRA", 2, 0, 2, (0.0, 0.0)).energy(1) == 1


def test_cosines_are_those_of_the_whole_changes(write: Write) -> None:
    first = {Q: random_factors(1), DOWN: random_factors(2)}
    second = {Q: random_factors(3, rank=7), DOWN: random_factors(2)}
    left, right = products(write("a", first)), products(write("b", second))
    dense = [
        np.concatenate([(f.b.astype(np.float64) @ f.a).ravel() for f in each.values()]) for each in (first, second)
    ]
    expected = dense[0] @ dense[1] / np.linalg.norm(dense[0]) / np.linalg.norm(dense[1])
    assert left.cosine(right) == pytest.approx(expected, rel=1e-5)
    assert left.cosine(left) == pytest.approx(1)


def test_factors_of_another_form_are_the_same_adapter(write: Write) -> None:
    pair = random_factors(1)
    turn = np.linalg.qr(np.random.default_rng(5).standard_normal((5, 5)))[0].astype(np.float32)
    turned = LoraFactors(turn @ pair.a, 3 * pair.b @ turn.T)
    left, right = products(write("a", {Q: pair})), products(write("b", {Q: turned}))
    assert left.cosine(right) == pytest.approx(1, abs=1e-5)
    away = products(write("c", {DOWN: pair}))
    assert left.cosine(away) == 0
    assert left.cosine(products(write("d", {Q: LoraFactors(pair.a, 0 * pair.b)}))) is None


@pytest.mark.parametrize("name", list(llama_formats()))
def test_every_format_can_be_inspected(name: str, family: Family, tmp_path: Path) -> None:
    layout = read_adapter(write_peft(family.base, tmp_path / name, llama_formats()[name], seed=1))
    tensors = {key: located.info.shape for key, located in read_checkpoint(family.base).tensors.items()}
    shapes = shapes_of(layout, tensors)
    report = inspect(layout, shapes)
    assert [module.module for module in report.modules] == list(layout.parts)
    assert report.parameters == sum(i.numel for n, i in layout.header.tensors.items() if n not in layout.shared)
    lora = read_variant(layout).to_lora()
    for module in report.modules if lora is not None else ():
        assert lora is not None
        values = np.linalg.svd(lora.delta(module.module), compute_uv=False) if module.rank else np.zeros(1)
        np.testing.assert_allclose(module.norm, np.linalg.norm(values), rtol=1e-5)
    if name == "vera":
        assert report.norm > 0
        assert inspect(layout).norm == 0, "without the base, its inputs are not known"


def test_a_part_without_a_low_rank_change_has_no_spectrum(tmp_path: Path) -> None:
    folder = write_folder(
        tmp_path / "ia3", {"peft_type": "IA3", "target_modules": [Q]}, {f"{Q}.ia3_l": torch.ones(8, 1)}
    )
    module = inspect(read_adapter(folder)).modules[0]
    assert (module.rank, module.singular_values, module.norm, module.parameters) == (None, (), 0.0, 8)
