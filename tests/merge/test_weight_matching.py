"""Weight matching and PLeaS on real architectures: planted permutations, functions that stay, float64 formulas."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from scipy.optimize import linear_sum_assignment
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from graftwork.errors import InvalidCheckpoint, InvalidRecipe, InvalidSetting
from graftwork.merge.models.permute.architectures import groups_of
from graftwork.merge.models.permute.permutation import Group, arrange, connected
from graftwork.merge.recipe.recipe import load_recipe
from graftwork.merge.run.run import merge
from graftwork.registry.formats.checkpoint import read_checkpoint
from graftwork.settings import Settings

Tensors = dict[str, NDArray[Any]]
SIZES: dict[str, Any] = {
    "vocab_size": 23,
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 16,
}
KINDS: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=False)),
    "tied": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES, tie_word_embeddings=False)),
    "bert": lambda: BertModel(BertConfig(**SIZES)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=23, n_positions=16, n_embd=16, n_layer=2, n_head=4)),
}


def write_model(folder: Path, kind: str, seed: int) -> Path:
    torch.manual_seed(seed)
    model = KINDS[kind]()
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms too, and no zeros
            parameter.add_(0.05 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    return folder


def permuted(source: Path, target: Path, *, residual: bool = False, seed: int = 7) -> list[Group]:
    """A copy of a model with the units of every group shuffled."""
    groups = groups_of(read_checkpoint(source), "m", heads=True, residual=residual)
    tensors = load_file(source / "model.safetensors")
    random = np.random.default_rng(seed)
    for group in groups:
        order = random.permutation(group.units)
        for member in group.members:
            tensors[member.tensor] = np.ascontiguousarray(arrange(tensors[member.tensor], member, order))
    target.mkdir()
    save_file(tensors, target / "model.safetensors", {"format": "pt"})
    (target / "config.json").write_text((source / "config.json").read_text())
    return list(groups)


def output(folder: Path) -> torch.Tensor:
    config = json.loads((folder / "config.json").read_text())
    kind = AutoModel if config["model_type"] == "bert" else AutoModelForCausalLM
    model = kind.from_pretrained(folder).eval()
    with torch.no_grad():
        found: torch.Tensor = model(torch.arange(12).reshape(2, 6))[0]
    return found


def run(paths: list[Path], out: Path, *, memory: int = 10**9, **parameters: Any) -> Path:
    weights = parameters.pop("weights", [1.0] * len(paths))
    models = [{"model": str(p), "parameters": {"weight": w}} for p, w in zip(paths, weights, strict=True)]
    recipe = load_recipe({"merge_method": "weight_matching", "models": models, "parameters": parameters})
    return merge(recipe, out=out, settings=Settings(memory=memory, threads=2))


@pytest.mark.parametrize(
    ("kind", "residual"),
    [
        ("llama", False),
        ("llama", True),
        ("tied", True),
        ("qwen2", False),
        ("qwen2", True),
        ("bert", False),
        ("gpt2", False),
    ],
)
def test_a_planted_permutation_changes_no_function_and_is_found(tmp_path: Path, kind: str, residual: bool) -> None:
    first = write_model(tmp_path / "first", kind, 0)
    groups = permuted(first, tmp_path / "second", residual=residual)
    assert any("heads" in group.name for group in groups)
    torch.testing.assert_close(output(tmp_path / "second"), output(first), rtol=1e-4, atol=1e-5)
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "second"))
    assert any(not np.array_equal(ours[name], theirs[name]) for name in ours)
    merged = load_file(run([first, tmp_path / "second"], tmp_path / "out", residual=residual) / "model.safetensors")
    assert merged.keys() == ours.keys()
    for name, values in ours.items():
        assert np.array_equal(merged[name], values), name


def test_a_merge_of_three_is_the_weighted_average_after_matching(tmp_path: Path) -> None:
    paths = [write_model(tmp_path / f"m{seed}", "llama", seed) for seed in range(3)]
    shares = [1.0, 2.0, 1.0]
    merged = load_file(run(paths, tmp_path / "out", heads=False, weights=shares) / "model.safetensors")
    weights = [load_file(path / "model.safetensors") for path in paths]
    first = weights[0]
    for layer in range(2):
        gate, up, down = (f"model.layers.{layer}.mlp.{name}_proj.weight" for name in ("gate", "up", "down"))
        for other in weights[1:]:
            products = sum(
                (a.astype(np.float64) @ b.astype(np.float64).T)
                for a, b in ((first[gate], other[gate]), (first[up], other[up]), (first[down].T, other[down].T))
            )
            _, best = linear_sum_assignment(products, maximize=True)
            other[gate], other[up], other[down] = other[gate][best], other[up][best], other[down][:, best]
    for name, values in merged.items():
        expected = sum(w / 4 * side[name].astype(np.float64) for w, side in zip(shares, weights, strict=True))
        np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-7, err_msg=name)


def partial_mlp(first: Tensors, second: Tensors, layer: int, ratio: float) -> dict[str, NDArray[np.float64]]:
    """The formulas of PLeaS for one MLP, in float64."""
    gate, up, down = (f"model.layers.{layer}.mlp.{name}_proj.weight" for name in ("gate", "up", "down"))
    a, b = ({name: side[name].astype(np.float64) for name in (gate, up, down)} for side in (first, second))
    products = a[gate] @ b[gate].T + a[up] @ b[up].T + a[down].T @ b[down]
    _, best = linear_sum_assignment(products, maximize=True)
    count = int(ratio * len(best))
    apart = np.sort(np.argsort(products[np.arange(len(best)), best])[:count])
    both = np.array([unit for unit in range(len(best)) if unit not in apart], np.int64)
    merged = {}
    for name in (gate, up):
        average = (a[name][both] + b[name][best[both]]) / 2
        merged[name] = np.concatenate([average, a[name][apart], b[name][best[apart]]])
    average = (a[down][:, both] + b[down][:, best[both]]) / 2
    merged[down] = np.concatenate([average, a[down][:, apart] / 2, b[down][:, best[apart]] / 2], axis=1)
    return merged


@pytest.mark.parametrize("ratio", [0.3, 1.0])
def test_units_that_are_not_alike_stay_apart(tmp_path: Path, ratio: float) -> None:
    paths = [write_model(tmp_path / f"m{seed}", "llama", seed) for seed in range(2)]
    out = run(paths, tmp_path / "out", heads=False, ratio=ratio)
    first, second, merged = (load_file(path / "model.safetensors") for path in (*paths, out))
    assert json.loads((out / "config.json").read_text())["intermediate_size"] == 20 + int(ratio * 20)
    expected = {
        name: (values.astype(np.float64) + second[name].astype(np.float64)) / 2 for name, values in first.items()
    }
    for layer in range(2):
        expected |= partial_mlp(first, second, layer, ratio)
    for name, values in expected.items():
        np.testing.assert_allclose(merged[name], values, rtol=1e-6, atol=1e-8, err_msg=name)
    assert output(out).shape == output(paths[0]).shape


@pytest.mark.parametrize("kind", ["llama", "bert", "gpt2"])
@pytest.mark.parametrize("ratio", [0.5, 1.0])
def test_a_partial_merge_with_itself_computes_the_same(tmp_path: Path, kind: str, ratio: float) -> None:
    first = write_model(tmp_path / "first", kind, 0)
    permuted(first, tmp_path / "second")
    out = run([first, tmp_path / "second"], tmp_path / "out", ratio=ratio)
    torch.testing.assert_close(output(out), output(first), rtol=1e-4, atol=1e-5)


def test_groups_without_common_tensors_are_matched_by_themselves(tmp_path: Path) -> None:
    layout = read_checkpoint(write_model(tmp_path / "m", "llama", 0))
    parts = connected(groups_of(layout, "m", heads=True, residual=False))
    assert [len(part) for part in parts] == [1, 3, 1, 3]
    assert [len(part) for part in connected(groups_of(layout, "m", heads=True, residual=True))] == [9]


def test_slices_and_threads_change_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [write_model(tmp_path / f"m{seed}", "qwen2", seed) for seed in range(2)]
    files = [
        (run(paths, tmp_path / f"out{memory}", memory=memory, ratio=0.3) / "model.safetensors").read_bytes()
        for memory in (10**9, 2 * 10**6)
    ]
    assert files[0] == files[1]


def test_what_cannot_be_matched_is_refused(tmp_path: Path) -> None:
    llama, bert = (write_model(tmp_path / kind, kind, 0) for kind in ("llama", "bert"))
    out = tmp_path / "out"
    with pytest.raises(InvalidRecipe, match="units of 2 models can be apart; there are 3"):
        run([llama, write_model(tmp_path / "b", "llama", 1), write_model(tmp_path / "c", "llama", 2)], out, ratio=0.5)
    with pytest.raises(InvalidRecipe, match="only where the weights are equal"):
        run([llama, tmp_path / "b"], out, ratio=0.5, weights=[1.0, 2.0])
    with pytest.raises(InvalidRecipe, match="residual stream can be matched in llama"):
        run([bert, write_model(tmp_path / "bert2", "bert", 1)], out, residual=True)
    with pytest.raises(InvalidRecipe, match="one value for the whole model"):
        run([llama, tmp_path / "b"], out, ratio=[0.0, 0.5])
    with pytest.raises(InvalidSetting, match="for what is matched at once"):
        run([llama, tmp_path / "b"], out, memory=10_000)
    odd = write_model(tmp_path / "odd", "llama", 3)
    tensors = load_file(odd / "model.safetensors")
    tensors["model.layers.1.mlp.down_proj.weight"] = np.zeros((16, 21), np.float32)
    save_file(tensors, odd / "model.safetensors", {"format": "pt"})
    with pytest.raises(InvalidCheckpoint, match=r"layers.1.mlp.down_proj.weight' is \[16, 21\]; its units need 20"):
        run([odd, tmp_path / "b"], out)
    config = json.loads((llama / "config.json").read_text()) | {"model_type": "mamba"}
    (llama / "config.json").write_text(json.dumps(config))
    with pytest.raises(InvalidRecipe, match=r"matched in models of the types bert, .*of the type 'mamba'"):
        run([llama, tmp_path / "b"], out)
    assert not out.exists()
