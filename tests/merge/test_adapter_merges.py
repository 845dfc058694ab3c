"""Adapters merged in rank space, against dense sums, numpy's SVD and PEFT itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from graftwork.adapters.algebra.algebra import cat, negate, svd
from graftwork.adapters.algebra.lowrank import generator
from graftwork.adapters.variants.lora import LoraAdapter, LoraFactors, load_lora, save_lora
from graftwork.errors import IncompatibleAdapter, IncompatibleModels, InvalidCheckpoint, InvalidRecipe
from graftwork.merge.lora.kmeans import cluster
from graftwork.merge.methods.lora_lego import LoraLego
from graftwork.merge.run.run import merge
from graftwork.registry.formats.peft import read_adapter
from graftwork.settings import Settings

Q = "model.layers.0.self_attn.q_proj"


def tiny_llama() -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config)


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and three PEFT adapters: ranks 4 and 2 with rank patterns, rsLoRA, other targets."""
    root = tmp_path_factory.mktemp("family")
    tiny_llama().save_pretrained(root / "base")
    configs = {
        "first": LoraConfig(r=4, lora_alpha=7, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
        "second": LoraConfig(
            r=2, lora_alpha=3, use_rslora=True, target_modules=["q_proj", "v_proj"], rank_pattern={Q: 5}
        ),
        "third": LoraConfig(r=3, lora_alpha=3, target_modules=["q_proj", "down_proj"]),
        "even": LoraConfig(r=4, lora_alpha=4, target_modules=["q_proj", "v_proj"]),
    }
    for seed, (name, config) in enumerate(configs.items()):
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(root / "base"), config)
        torch.manual_seed(seed + 1)
        with torch.no_grad():
            for parameter_name, parameter in model.named_parameters():
                if "lora_" in parameter_name:
                    parameter.normal_(std=0.3)
        model.save_pretrained(str(root / name))
    return root


def recipe_for(family: Path, method: str, names: list[str], weights: list[float] | None = None, **more: Any) -> Any:
    from graftwork.merge.recipe.recipe import load_recipe

    models = [{"model": str(family / name)} for name in names]
    if weights is not None:
        models = [{**model, "parameters": {"weight": w}} for model, w in zip(models, weights, strict=True)]  # type: ignore[dict-item]
    return load_recipe({"merge_method": method, "models": models, **more})


def dense(folder: Path) -> dict[str, NDArray[np.float64]]:
    """What PEFT adds to each weight, in float64, from the files alone."""
    from safetensors.numpy import load_file

    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")
    changes = {}
    for name, a in tensors.items():
        if "lora_A" not in name:
            continue
        module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        rank = config["rank_pattern"].get(module, config["r"])
        alpha = config["alpha_pattern"].get(module, config["lora_alpha"])
        scale = alpha / (np.sqrt(rank) if config["use_rslora"] else rank)
        b = tensors[name.replace("lora_A", "lora_B")]
        changes[module] = scale * b.astype(np.float64) @ a.astype(np.float64)
    return changes


def weighted(family: Path, names: list[str], weights: list[float]) -> dict[str, NDArray[np.float64]]:
    total: dict[str, NDArray[np.float64]] = {}
    for name, weight in zip(names, weights, strict=True):
        for module, change in dense(family / name).items():
            total[module] = total.get(module, 0.0) + weight * change
    return total


def test_cat_is_the_sum_of_the_deltas(family: Path, tmp_path: Path) -> None:
    names, weights = ["first", "second", "third"], [1.0, -0.5, 2.0]
    out = merge(recipe_for(family, "lora_cat", names, weights), out=tmp_path / "merged", settings=Settings())
    merged, expected = dense(out), weighted(family, names, weights)
    assert merged.keys() == expected.keys()
    for module, change in expected.items():
        np.testing.assert_allclose(merged[module], change, rtol=1e-5, atol=1e-5 * np.abs(change).max())
    assert read_adapter(out).modules[Q].rank == 4 + 5 + 3


@pytest.mark.parametrize("method", ["lora_cat", "lora_svd", "lora_lego"])
def test_peft_computes_with_a_merged_adapter_what_its_factors_say(family: Path, tmp_path: Path, method: str) -> None:
    out = merge(recipe_for(family, method, ["first", "second", "third"]), out=tmp_path / "merged", settings=Settings())
    tokens = torch.arange(12).reshape(2, 6)
    model = AutoModelForCausalLM.from_pretrained(family / "base")
    changes = load_lora(out)
    with torch.no_grad():
        for module in changes.modules:
            model.get_parameter(f"{module}.weight").add_(torch.from_numpy(changes.delta(module)))
        expected = model(tokens).logits
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(family / "base"), out)
    with torch.no_grad():
        torch.testing.assert_close(adapted(tokens).logits, expected, rtol=1e-4, atol=1e-4)


def test_peft_with_a_cat_is_peft_with_all_deltas_added(family: Path, tmp_path: Path) -> None:
    names = ["first", "second", "third"]
    out = merge(recipe_for(family, "lora_cat", names), out=tmp_path / "merged", settings=Settings())
    summed = AutoModelForCausalLM.from_pretrained(family / "base")
    for name in names:
        summed = PeftModel.from_pretrained(summed, family / name).merge_and_unload()
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(family / "base"), out)
    tokens = torch.arange(30).reshape(3, 10)
    with torch.no_grad():
        torch.testing.assert_close(adapted(tokens).logits, summed(tokens).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rank", [1, 3, 9])
def test_svd_is_the_truncated_svd_of_the_dense_sum(family: Path, tmp_path: Path, rank: int) -> None:
    names, weights = ["first", "second"], [0.7, -1.2]
    recipe = recipe_for(family, "lora_svd", names, weights, parameters={"rank": rank})
    merged = dense(merge(recipe, out=tmp_path / "merged", settings=Settings()))
    for module, change in weighted(family, names, weights).items():
        u, s, vt = np.linalg.svd(change)
        nearest = (u[:, :rank] * s[:rank]) @ vt[:rank] if rank < len(s) else change
        np.testing.assert_allclose(merged[module], nearest, atol=2e-6 * s[0])


def test_lego_with_a_cluster_for_each_unit_is_cat(family: Path, tmp_path: Path) -> None:
    names = ["first", "even"]
    parameters = {"rank": 8, "output_reweight": False}
    lego = merge(
        recipe_for(family, "lora_lego", names, parameters=parameters), out=tmp_path / "lego", settings=Settings()
    )
    cat_folder = merge(recipe_for(family, "lora_cat", names), out=tmp_path / "cat", settings=Settings())
    weights = [(folder / "adapter_model.safetensors").read_bytes() for folder in (lego, cat_folder)]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_lego_follows_the_paper_on_separated_clusters(norm: Any) -> None:
    random = np.random.default_rng(3)
    centres = 10 * random.normal(size=(2, 11))
    members = [np.stack([centre + 0.1 * random.normal(size=11) for _ in range(3)]) for centre in centres]
    units = np.concatenate([pair for rows in zip(*members, strict=True) for pair in (np.stack(rows),)])
    factors = [
        LoraFactors(part[:, :5].astype(np.float32), np.ascontiguousarray(part[:, 5:].T, np.float32))
        for part in (units[:4], units[4:], np.zeros((1, 11)))
    ]
    merged = LoraLego(rank_=2, norm=norm).merge("m", factors, seed=0)
    order = 2 if norm == "l2" else np.inf
    expected = np.zeros((6, 5))
    for group in members:
        centroid = group.mean(0)
        centroid *= np.mean([np.linalg.norm(unit, order) for unit in group]) / np.linalg.norm(centroid, order)
        expected += np.outer(centroid[5:], centroid[:5])
    expected *= np.sqrt(np.mean([4, 2, 1]) / 2)
    np.testing.assert_allclose(merged.delta(), expected, rtol=1e-5, atol=1e-4)


def test_lego_gives_the_same_bytes_for_the_same_seed(family: Path, tmp_path: Path) -> None:
    files = []
    for number, seed in enumerate((1, 1, 2)):
        recipe = recipe_for(family, "lora_lego", ["first", "second", "third"], seed=seed, parameters={"rank": 4})
        out = merge(recipe, out=tmp_path / str(number), settings=Settings())
        files.append((out / "adapter_model.safetensors").read_bytes())
    assert files[0] == files[1]
    assert files[0] != files[2]


def test_lines_scales_an_adapter_with_depth(family: Path, tmp_path: Path) -> None:
    lines = [{"lines": {"alpha": 0.5, "beta": 1.0}}]
    out = merge(recipe_for(family, "lora_cat", ["first"], modifiers=lines), out=tmp_path / "out", settings=Settings())
    merged, plain = dense(out), dense(family / "first")
    for module, change in plain.items():
        factor = 0.5 if ".0." in module else 1.5
        np.testing.assert_allclose(merged[module], factor * change, rtol=1e-5, atol=1e-6)


def test_the_targets_of_alike_adapters_are_kept(family: Path, tmp_path: Path) -> None:
    same = merge(recipe_for(family, "lora_cat", ["first", "even"]), out=tmp_path / "same", settings=Settings())
    config = json.loads((same / "adapter_config.json").read_text())
    assert (config["target_modules"], config["r"], config["rank_pattern"]) == (["q_proj", "v_proj"], 8, {})
    assert config["base_model_name_or_path"] == str(family / "base")
    assert config["task_type"] == "CAUSAL_LM"
    mixed = merge(recipe_for(family, "lora_cat", ["first", "third"]), out=tmp_path / "mixed", settings=Settings())
    assert Q in json.loads((mixed / "adapter_config.json").read_text())["target_modules"]


def test_a_merge_within_a_named_base_is_checked_against_it(family: Path, tmp_path: Path) -> None:
    other = LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    LlamaForCausalLM(other).save_pretrained(tmp_path / "other")
    with pytest.raises(IncompatibleAdapter, match=r"first.*self_attn"):
        merge(
            recipe_for(family, "lora_cat", ["first"], base_model=str(tmp_path / "other")),
            out=tmp_path / "merged",
            settings=Settings(),
        )
    assert not (tmp_path / "merged").exists()


def test_adapters_of_different_bases_are_refused(family: Path, tmp_path: Path) -> None:
    adapter = LoraAdapter("a", load_lora(family / "first").modules)
    (tmp_path / "elsewhere").mkdir()
    save_lora(adapter, tmp_path / "elsewhere", base_model="acme/other")
    recipe = recipe_for(family, "lora_cat", ["first", str(tmp_path / "elsewhere")])
    with pytest.raises(IncompatibleModels, match="different bases, 'acme/other'"):
        merge(recipe, out=tmp_path / "merged", settings=Settings())


def test_whole_models_and_adapters_do_not_mix(family: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidCheckpoint, match=r"base.* cannot be used: it is not an adapter"):
        merge(recipe_for(family, "lora_cat", ["base"]), out=tmp_path / "merged", settings=Settings())
    with pytest.raises(InvalidCheckpoint, match="it is an adapter; models and adapters do not mix"):
        merge(recipe_for(family, "linear", ["base", "first"]), out=tmp_path / "merged", settings=Settings())


def test_a_rank_that_cannot_be_reached_is_refused(family: Path, tmp_path: Path) -> None:
    recipe = recipe_for(family, "lora_lego", ["first", "even"], parameters={"rank": 9})
    with pytest.raises(InvalidRecipe, match="rank is 9, and the adapters' ranks add up to at most 8"):
        merge(recipe, out=tmp_path / "merged", settings=Settings())


def test_an_adapter_survives_saving_and_loading(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    modules = {
        f"model.layers.{layer}.q": LoraFactors(
            random.normal(size=(rank, 5)).astype(np.float32), random.normal(size=(7, rank)).astype(np.float32)
        )
        for layer, rank in ((0, 2), (1, 3), (11, 3))
    }
    save_lora(LoraAdapter("a", modules), tmp_path, base_model="acme/base")
    loaded = load_lora(tmp_path)
    for module, factors in modules.items():
        assert np.array_equal(loaded.modules[module].a, factors.a)
        assert np.array_equal(loaded.modules[module].b, factors.b)


def test_algebra_agrees_with_dense_matrices() -> None:
    random = np.random.default_rng(0)
    first, second = (
        LoraFactors(random.normal(size=(r, 6)).astype(np.float32), random.normal(size=(4, r)).astype(np.float32))
        for r in (2, 3)
    )
    both = cat([first, second], [2.0, -1.0])
    np.testing.assert_allclose(both.delta(), 2 * first.delta() - second.delta(), atol=1e-5)
    np.testing.assert_allclose(svd(both, 9).delta(), both.delta(), atol=1e-5)
    assert svd(both, 9).rank == 4
    np.testing.assert_allclose(cat([both, negate(both)], [1, 1]).delta(), np.zeros((4, 6)), atol=1e-5)


def test_clusters_of_separated_points_are_found_and_never_empty() -> None:
    random = np.random.default_rng(0)
    truth = np.repeat(np.arange(4), 5)
    points = 20.0 * np.eye(4)[truth] + random.normal(size=(20, 4))
    assert np.array_equal(cluster(points, 4, generator(0, "m")), truth)
    same = cluster(np.ones((6, 2)), 3, generator(0, "m"))
    assert sorted(np.bincount(same))[0] >= 1
    assert len(np.bincount(same)) == 3


def test_a_named_base_may_be_saved_without_its_head(family: Path, tmp_path: Path) -> None:
    LlamaForCausalLM.from_pretrained(family / "base").model.save_pretrained(tmp_path / "bare")
    recipe = recipe_for(family, "lora_cat", ["first"], base_model=str(tmp_path / "bare"))
    merged = dense(merge(recipe, out=tmp_path / "merged", settings=Settings()))
    for module, change in dense(family / "first").items():
        np.testing.assert_allclose(merged[module], change, rtol=1e-5, atol=1e-6)
