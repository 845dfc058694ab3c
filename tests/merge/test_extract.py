"""Task vectors and LoRAs taken from fine-tunes, against float64 differences, numpy's SVD and PEFT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from peft import PeftModel
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from graftwork.cli.main import main
from graftwork.errors import (
    IncompatibleModels,
    InvalidRecipe,
    InvalidRequest,
    InvalidSetting,
    NonFiniteTensor,
    OutputExists,
)
from graftwork.merge.extract.extract import extract, extract_version
from graftwork.merge.extract.extraction import is_linear
from graftwork.merge.recipe.recipe import load_recipe
from graftwork.merge.run.run import merge
from graftwork.registry.formats.peft import read_adapter
from graftwork.registry.refs import Name, Ref
from graftwork.registry.registry import Registry
from graftwork.registry.transfer.importer import import_source
from graftwork.registry.versions.version import Kind
from graftwork.settings import Settings
from graftwork.testing.family import Family
from graftwork.testing.tiny import tiny_family

DTYPES: dict[str, Any] = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
Q = "model.layers.0.q_proj.weight"
Tensors = dict[str, Any]


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """A tiny Llama and a fine-tune of it."""
    return tiny_family(tmp_path_factory.mktemp("family"), fine_tunes=1, adapters=1)


def weights(folder: Path) -> Tensors:
    return load_file(folder / "model.safetensors")


def write(folder: Path, tensors: Tensors, **config: Any) -> str:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return str(folder)


def pair(root: Path, dtype: str = "F32", **more: Any) -> tuple[str, str]:
    """A base and a model with linear layers, an embedding, a norm, integers, a scalar and an empty tensor."""
    random = np.random.default_rng(0)

    def make(spread: float, around: Tensors | None) -> Tensors:
        shapes = {"model.embed_tokens.weight": (11, 6), Q: (9, 6), "lm_head.weight": (11, 6), "model.norm.weight": (6,)}
        shapes |= {"model.scale": (), "model.empty.weight": (0, 6)}
        tensors = {}
        for name, shape in shapes.items():
            centre = 0 if around is None else around[name].astype(np.float64)
            tensors[name] = np.asarray(centre + spread * random.normal(size=shape)).astype(DTYPES[dtype])
        return tensors | {"model.ids": np.arange(5), "model.count": np.array(3)}

    base = make(1.0, None)
    return write(root / "model", make(0.01, base), **more), write(root / "base", base, **more)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_a_task_vector_and_its_base_are_the_model_again(tmp_path: Path, dtype: str) -> None:
    model, base = pair(tmp_path, dtype)
    extract(model, base, out=tmp_path / "out", settings=Settings())
    delta, ours, theirs = (weights(tmp_path / name) for name in ("out", "model", "base"))
    assert delta.keys() == ours.keys()
    for name, values in delta.items():
        if values.dtype.kind == "i":
            assert np.array_equal(values, ours[name])
            continue
        assert values.dtype == np.float32
        exact = ours[name].astype(np.float64) - theirs[name].astype(np.float64)
        np.testing.assert_allclose(values, exact, rtol=2**-23, atol=0)
        rebuilt = (theirs[name].astype(np.float32) + values).astype(DTYPES[dtype])
        if dtype == "F32":
            np.testing.assert_allclose(rebuilt, ours[name], rtol=2**-23)
        else:
            assert np.array_equal(rebuilt.view(np.uint16), ours[name].view(np.uint16))
    said = json.loads((tmp_path / "out" / "extraction.json").read_text())
    assert (said["kind"], said["dtype"], said["base"]) == ("task_vector", "float32", "base")


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_a_task_vector_stands_for_its_model_in_a_recipe(tmp_path: Path, dtype: str) -> None:
    model, base = pair(tmp_path, dtype)
    extract(model, base, out=tmp_path / "delta", settings=Settings())
    for method in ("task_arithmetic", "ties", "linear"):
        results: list[Tensors] = []
        for source in (model, str(tmp_path / "delta")):
            raw = {"merge_method": method, "base_model": base, "models": [{"model": source}]}
            out = tmp_path / f"{method} {len(results)}"
            results.append(weights(merge(load_recipe(raw), out=out, settings=Settings())))
        for name, values in results[0].items():
            assert results[1][name].dtype == values.dtype
            step = 2**-22 if dtype == "F32" else 2**-8
            got, expected = (side.astype(np.float64) for side in (results[1][name], values))
            np.testing.assert_allclose(got, expected, rtol=step, err_msg=name)
    recipe = load_recipe({"merge_method": "linear", "models": [{"model": str(tmp_path / "delta")}]})
    with pytest.raises(InvalidRecipe, match="delta is a task vector, which needs the base"):
        merge(recipe, out=tmp_path / "out", settings=Settings())
    with pytest.raises(InvalidRequest, match="delta is a task vector, and not a model"):
        extract(str(tmp_path / "delta"), base, out=tmp_path / "out", settings=Settings())


def test_a_task_vector_can_be_kept_in_the_models_dtype(tmp_path: Path) -> None:
    model, base = pair(tmp_path, "BF16")
    extract(model, base, out=tmp_path / "out", settings=Settings(), dtype="model")
    delta, ours, theirs = (weights(tmp_path / name) for name in ("out", "model", "base"))
    expected = (ours[Q].astype(np.float32) - theirs[Q].astype(np.float32)).astype(ml_dtypes.bfloat16)
    assert np.array_equal(delta[Q].view(np.uint16), expected.view(np.uint16))


def test_a_lora_is_the_svd_of_each_linear_layers_difference(tmp_path: Path) -> None:
    model, base = pair(tmp_path)
    report = extract(model, base, out=tmp_path / "out", settings=Settings(), rank=2)
    tensors = load_file(tmp_path / "out" / "adapter_model.safetensors")
    ours, theirs = weights(tmp_path / "model"), weights(tmp_path / "base")
    assert report.modules.keys() == {Q.removesuffix(".weight"), "lm_head"}
    kept = total = 0.0
    for module, found in report.modules.items():
        change = ours[f"{module}.weight"].astype(np.float64) - theirs[f"{module}.weight"]
        u, s, vt = np.linalg.svd(change)
        a, b = (tensors[f"base_model.model.{module}.lora_{side}.weight"].astype(np.float64) for side in "AB")
        np.testing.assert_allclose(b @ a, (u[:, :2] * s[:2]) @ vt[:2], atol=1e-7)
        assert found["energy"] == pytest.approx((s[:2] ** 2).sum() / (s**2).sum(), rel=1e-5)
        kept += (s[:2] ** 2).sum()
    for name, values in ours.items():
        total += ((values.astype(np.float64) - theirs[name]) ** 2).sum()
    assert report.energy == pytest.approx(kept / total, rel=1e-5)
    assert report.left.keys() == {"model.embed_tokens.weight", "model.norm.weight", "model.scale"}
    assert report.unchanged == ["model.empty.weight"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "- `model.norm.weight`" in card


def test_a_lora_of_full_rank_rebuilds_the_linear_layers_of_a_real_model(family: Family, tmp_path: Path) -> None:
    tuned = next(iter(family.fine_tunes.values()))
    report = extract(str(tuned), str(family.base), out=tmp_path / "out", settings=Settings(), rank=32)
    assert all(found["energy"] == pytest.approx(1.0) for found in report.modules.values())
    expected = AutoModelForCausalLM.from_pretrained(tuned)
    base = AutoModelForCausalLM.from_pretrained(family.base)
    with torch.no_grad():
        for name in report.left:  # what the LoRA does not hold: embedding and norms
            base.get_parameter(name).copy_(expected.get_parameter(name))
    adapted = PeftModel.from_pretrained(base, tmp_path / "out")
    tokens = torch.arange(12).reshape(2, 6)
    with torch.no_grad():
        torch.testing.assert_close(adapted(tokens).logits, expected(tokens).logits, rtol=1e-4, atol=1e-5)


def test_the_experts_of_twin_merging_are_extracts_against_the_shared_model(tmp_path: Path) -> None:
    first, base = pair(tmp_path)
    second = weights(tmp_path / "base")
    second[Q] = second[Q] + np.float32(0.5)
    tuned = [first, write(tmp_path / "second", second)]
    models = [{"model": path} for path in tuned]
    recipe = load_recipe({"merge_method": "twin_shared", "base_model": base, "models": models})
    shared = merge(recipe, out=tmp_path / "shared", settings=Settings())
    ours, theirs, merged = (weights(folder) for folder in (tmp_path / "model", tmp_path / "base", shared))
    exact = 0.7 * theirs[Q].astype(np.float64) + 0.3 * ours[Q] + 0.3 * 0.5
    np.testing.assert_allclose(merged[Q], exact, atol=1e-6)
    for number, path in enumerate(tuned):
        out = tmp_path / f"expert{number}"
        extract(path, str(shared), out=out, settings=Settings(), rank=6)
        factors = load_file(out / "adapter_model.safetensors")
        a, b = (factors[f"base_model.model.{Q.removesuffix('.weight')}.lora_{side}.weight"] for side in "AB")
        np.testing.assert_allclose(merged[Q] + b @ a, weights(Path(path))[Q], atol=1e-6)


def test_the_layers_of_gpt2_are_transposed(tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=20, n_positions=8, n_embd=8, n_layer=1, n_head=2)
    for seed, name in enumerate(("base", "model")):
        torch.manual_seed(seed)
        GPT2LMHeadModel(config).save_pretrained(tmp_path / name)
    report = extract(str(tmp_path / "model"), str(tmp_path / "base"), out=tmp_path / "out", settings=Settings(), rank=8)
    assert len(report.modules) == 4
    assert read_adapter(tmp_path / "out").config.fan_in_fan_out
    adapted = PeftModel.from_pretrained(GPT2LMHeadModel.from_pretrained(tmp_path / "base"), tmp_path / "out")
    merged = adapted.merge_and_unload().state_dict()
    expected = GPT2LMHeadModel.from_pretrained(tmp_path / "model").state_dict()
    for module in report.modules:
        torch.testing.assert_close(merged[f"{module}.weight"], expected[f"{module}.weight"], rtol=1e-4, atol=1e-5)


def test_what_is_a_linear_layer() -> None:
    linear = ["model.layers.0.mlp.up_proj", "encoder.layer.0.attention.self.query", "h.0.mlp.c_fc", "lm_head"]
    assert all(is_linear(f"{name}.weight", (4, 4), tied=False) for name in linear)
    assert not is_linear("lm_head.weight", (4, 4), tied=True)
    others = ["model.embed_tokens", "wte", "transformer.wpe", "shared", "embeddings.word_embeddings"]
    assert not any(is_linear(f"{name}.weight", (4, 4), tied=False) for name in others)
    assert not is_linear("conv.weight", (4, 4, 3), tied=False)
    assert is_linear("model.layers.0.mlp.shared_expert.up_proj.weight", (4, 4), tied=False)


def test_what_cannot_be_extracted_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    model, base = pair(tmp_path)
    out, settings = tmp_path / "out", Settings()
    with pytest.raises(IncompatibleModels, match=r"embed_tokens.* changed, and a LoRA cannot hold it"):
        extract(model, base, out=out, settings=settings, rank=2, strict=True)
    with pytest.raises(InvalidRequest, match="rank: it is 7, and no layer can have more than 6"):
        extract(model, base, out=out, settings=settings, rank=7)
    with pytest.raises(InvalidSetting, match="for the matrix lm_head"):
        extract(model, base, out=out, settings=Settings(memory=1000), rank=2)
    with pytest.raises(InvalidRequest, match=r"no linear layer of .* differs"):
        extract(base, base, out=out, settings=settings, rank=2)
    with pytest.raises(InvalidRequest, match="accepted are float32, float16, bfloat16, model"):
        extract(model, base, out=out, settings=settings, dtype="int8")
    broken = weights(tmp_path / "model")
    broken["model.ids"] = np.arange(5) + 1
    with pytest.raises(IncompatibleModels, match=r"model\.ids.* is I64, which has no difference, and it changed"):
        extract(write(tmp_path / "ids", broken), base, out=out, settings=settings)
    broken = weights(tmp_path / "model")
    broken[Q][2, 3] = np.nan
    with pytest.raises(NonFiniteTensor, match="nan holds 1 NaN"):
        extract(write(tmp_path / "nan", broken), base, out=out, settings=settings, rank=2)
    assert not out.exists()
    with pytest.raises(OutputExists):
        extract(model, base, out=tmp_path / "model", settings=settings)


def test_extracts_are_registered_with_their_parents(family: Family, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    with Registry.open(settings) as registry:
        import_source(registry, str(family.base), Name.parse("acme/base"))
        tuned = str(next(iter(family.fine_tunes.values())))
        import_source(registry, tuned, Name.parse("acme/tuned"), base=Ref.parse("acme/base"))
        lora, report = extract_version(
            "acme/tuned", "acme/base", Name.parse("acme/lora"), registry=registry, settings=settings, rank=4
        )
        dense, _ = extract_version(
            "acme/tuned", "acme/base", Name.parse("acme/delta"), registry=registry, settings=settings
        )
        assert (lora.kind, dense.kind) == (Kind.ADAPTER, Kind.TASK_VECTOR)
        base, model = (registry.catalog.resolve(name).digest for name in ("acme/base", "acme/tuned"))
        for version in (lora, dense):
            edges = {edge.parent: edge.weight for edge in registry.lineage.parents(version.digest)}
            assert edges == {base: -1.0, model: 1.0}
            assert version.base == base
        assert lora.metadata["extract"]["energy"] == report.energy  # type: ignore[index]
        with pytest.raises(InvalidRequest, match="is not a version of the registry"):
            extract_version(tuned, str(family.base), Name.parse("acme/x"), registry=registry, settings=settings)


def test_the_command_says_what_is_kept_and_what_is_left(tmp_path: Path) -> None:
    model, base = pair(tmp_path)
    out = tmp_path / "out"
    home = ["--home", str(tmp_path / "home")]
    done = CliRunner().invoke(main, ["extract", model, str(out), "--base", base, "--rank", "2", *home])
    assert done.exit_code == 0, done.output
    assert "of the squared norm of the whole change is kept" in done.stderr
    assert "model.norm.weight" in done.stderr
    done = CliRunner().invoke(main, ["extract", model, f"{out}-json", "--base", base, "--rank", "2", "--json", *home])
    assert json.loads(done.stdout)["extraction"]["left"].keys() == {
        "model.embed_tokens.weight",
        "model.norm.weight",
        "model.scale",
    }
    done = CliRunner().invoke(main, ["extract", model, "--base", base, *home])
    assert done.exit_code == 2
