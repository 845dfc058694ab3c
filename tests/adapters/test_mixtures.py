"""Mixtures that a request spells out: their grammar, their canonical form, and their sum against PEFT's own."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, VeraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from graftwork.adapters.engine.sequence import Request, Sampling
from graftwork.adapters.experts.blend import Blend
from graftwork.adapters.experts.members import load_member
from graftwork.adapters.experts.mixture import MAX_PARTS, parse_mixture
from graftwork.adapters.variants.lora import load_lora
from graftwork.adapters.weights import ModelWeights
from graftwork.errors import GraftworkError, IncompatibleAdapter, InvalidReference, InvalidRequest
from graftwork.registry.refs import Name
from graftwork.registry.versions.version import Kind, Version
from graftwork.testing.formats import llama_formats, write_peft

WEIGHTS = {"attention": 0.7, "everything": -0.3, "pattern": 1.25}


def version(name: str, *, base: str | None = "b" * 64, kind: Kind = Kind.ADAPTER) -> Version:
    """A version whose digest is told by its name."""
    return Version(Name("acme", name), kind, 1, name.encode().hex().ljust(64, "0"), base, (), {}, datetime.now(UTC))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("ns/a*0.7+ns/b*0.3", [("ns/a", 0.7), ("ns/b", 0.3)]),
        ("ns/a+ns/b", [("ns/a", 1.0), ("ns/b", 1.0)]),
        ("ns/a*2", [("ns/a", 2.0)]),
        ("ns/a*-0.5+ns/b*(-.25)", [("ns/a", -0.5), ("ns/b", -0.25)]),
        (" ns/a * 1e-2 + ns/b@prod * ( +3. ) ", [("ns/a", 0.01), ("ns/b@prod", 3.0)]),
        ("ns/a@v3*1e+2+ns/b-c@deadbeef", [("ns/a@v3", 100.0), ("ns/b-c@deadbeef", 1.0)]),
        ("-ns/a-b*2+x/y", [("-ns/a-b", 2.0), ("x/y", 1.0)]),
    ],
)
def test_a_mixture_is_references_and_weights(text: str, parts: list[tuple[str, float]]) -> None:
    mixture = parse_mixture(text)
    assert mixture is not None
    assert [(str(part.ref), part.weight) for part in mixture.parts] == parts


@pytest.mark.parametrize("text", ["ns/a", "ns/a@prod", "ns/skills[sum]", "", "anything else"])
def test_what_names_one_version_is_not_a_mixture(text: str) -> None:
    assert parse_mixture(text) is None


@pytest.mark.parametrize(
    ("text", "kind", "told"),
    [
        ("ns/a*", InvalidRequest, "'ns/a*' is not a part"),
        ("ns/a+", InvalidRequest, "its end is not a part"),
        ("+ns/a", InvalidRequest, "'+ns/a' is not a part"),
        ("ns/a*x+ns/b", InvalidRequest, "'ns/a*x+ns/b' is not a part"),
        ("ns/a*(0.5+ns/b", InvalidRequest, "'ns/a*(0.5+ns/b' is not a part"),
        ("0.7*ns/a+ns/b", InvalidRequest, "'0.7*ns/a+ns/b' is not a part"),
        ("ns/a*1e999+ns/b", InvalidRequest, "1e999 of ns/a is not a finite number"),
        ("ns/a*nan+ns/b", InvalidRequest, "is not a part"),
        ("a*0.5+ns/b", InvalidReference, "'a' is not a reference"),
        ("ns/a+ns/skills[sum]", InvalidReference, "'ns/skills[sum]' is not a reference"),
        ("+".join(["ns/a"] * (MAX_PARTS + 1)), InvalidRequest, f"at most {MAX_PARTS} parts"),
    ],
)
def test_a_malformed_mixture_says_what_is_wrong(text: str, kind: type[GraftworkError], told: str) -> None:
    with pytest.raises(kind) as caught:
        parse_mixture(text)
    assert told in str(caught.value)


def test_the_digest_is_of_the_sum_and_not_of_its_spelling() -> None:
    a, b = version("a"), version("b")
    assert Blend.of([(a, 0.7), (b, 0.3)]).digest == Blend.of([(b, 0.3), (a, 0.7)]).digest
    assert Blend.of([(a, 0.5), (b, 0.3), (a, 0.25)]).digest == Blend.of([(a, 0.75), (b, 0.3)]).digest
    assert Blend.of([(a, 1e16), (b, 1), (a, 1.0), (a, -1e16)]).digest == Blend.of([(a, 1), (b, 1)]).digest
    assert Blend.of([(a, 1), (b, 0)]).digest == Blend.of([(a, 1)]).digest == a.digest
    others = [Blend.of([(a, 0.7), (b, 0.30000000000000004)]), Blend.of([(a, 0.3), (b, 0.7)]), Blend.of([(a, 0.7)])]
    assert len({blend.digest for blend in [*others, Blend.of([(a, 0.7), (b, 0.3)])]}) == 4
    assert all(len(blend.digest) == 64 for blend in others)


def test_parts_that_do_not_add_up_are_refused_by_name() -> None:
    a = version("a")
    with pytest.raises(InvalidRequest, match="acme/a-base@v1 is a base; a mixture is made of adapters"):
        Blend.of([(a, 1), (version("a-base", base=None, kind=Kind.BASE), 1)])
    with pytest.raises(InvalidRequest, match="acme/skills@v1 is an expert set; a mixture is made of adapters"):
        Blend.of([(version("skills", kind=Kind.EXPERT_SET), 1)])
    for weights in ([1e300], [1e308, 1e308], [-3e38, -3e38]):
        with pytest.raises(InvalidRequest, match=r"the weight of acme/a@v1 is larger than a float32 holds"):
            Blend.of([(a, weight) for weight in weights])
    assert Blend.of([(a, 1e308), (a, 1e308), (a, -1e308), (a, -1e308), (a, 2)]).terms[0].weight == 2
    with pytest.raises(InvalidRequest, match="every weight of the mixture is 0"):
        Blend.of([(a, 0.1), (a, -0.1)])
    with pytest.raises(IncompatibleAdapter, match="acme/b@v1 does not fit the base"):
        Blend.of([(a, 1), (version("b", base="c" * 64), 1)])


@pytest.fixture(scope="module")
def blended(family_of: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """The mixture of three adapters of different modules and ranks, and PEFT's model of it."""
    family = family_of("llama")
    blend = Blend.of([(version(name), weight) for name, weight in WEIGHTS.items()])
    model: Any = AutoModelForCausalLM.from_pretrained(family.base, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, str(family.adapters["attention"]), adapter_name="attention")
    for name in list(WEIGHTS)[1:]:
        model.load_adapter(str(family.adapters[name]), adapter_name=name)
    return (family, blend), model


def test_the_sum_is_that_of_peft(blended: tuple[Any, Any]) -> None:
    """PEFT refuses to concatenate adapters of different rank patterns, so its own deltas are added up in float64."""
    (family, blend), model = blended
    mixed = blend.load(lambda part: family.adapters[part.name.name])
    layers = {
        name.removeprefix("base_model.model."): module
        for name, module in model.named_modules()
        if hasattr(module, "lora_A")
    }
    assert mixed.modules.keys() == layers.keys()
    for module, layer in layers.items():
        expected = sum(
            WEIGHTS[name] * layer.get_delta_weight(name).double() for name in WEIGHTS if name in layer.lora_A
        )
        assert mixed.modules[module].rank == sum(layer.r[name] for name in WEIGHTS if name in layer.lora_A)
        np.testing.assert_allclose(mixed.delta(module), expected.detach().numpy(), rtol=0, atol=2e-6)


def test_a_mixture_answers_token_by_token_as_pefts_cat(
    family_of: Callable[[str], Any], engine_of: Any, tmp_path: Path
) -> None:
    """fp32 and greedy: our engine against transformers' generate on `add_weighted_adapter(combination_type="cat")`."""
    family = family_of("llama")
    parts = {"attention": 0.9, "mlp": -0.4}
    blend = Blend.of([(version(name), weight) for name, weight in parts.items()])
    model: Any = AutoModelForCausalLM.from_pretrained(family.base, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, str(family.adapters["attention"]), adapter_name="attention")
    model.load_adapter(str(family.adapters["mlp"]), adapter_name="mlp")
    model.add_weighted_adapter(list(parts), list(parts.values()), "mixed", combination_type="cat")
    model.set_adapter("mixed")
    engine = engine_of(family)
    source = blend.source(lambda part: family.adapters[part.name.name], torch.float32)
    prompts = [[256, *b"mixtures are exact"], [256, *b"x"]]
    leases = [engine.residency.acquire(blend.digest, source, name=blend.name) for _ in prompts]
    assert leases[0].resident is leases[1].resident
    answers = generate(engine, list(zip(prompts, leases, strict=True)))
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = torch.tensor([prompt])
        options = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 258, "eos_token_id": None}
        expected = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **options)
        assert answer == expected[0, len(prompt) :].tolist()


def test_a_part_that_is_more_than_low_rank_is_refused_by_name(family_of: Callable[[str], Any], tmp_path: Path) -> None:
    """DoRA has a magnitude of its own; VeRA is low rank once its base is known."""
    family = family_of("llama")
    model: Any = AutoModelForCausalLM.from_pretrained(family.base, dtype=torch.float32)
    config = LoraConfig(r=2, target_modules=["q_proj"], use_dora=True, task_type="CAUSAL_LM")
    get_peft_model(model, config).save_pretrained(str(tmp_path / "dora"))
    base: Any = AutoModelForCausalLM.from_pretrained(family.base, dtype=torch.float32)
    vera: Any = get_peft_model(base, VeraConfig(r=3, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    for name, parameter in vera.named_parameters():
        if "vera_lambda" in name:
            parameter.data.normal_()
    vera.save_pretrained(str(tmp_path / "vera"))
    folders = {"dora": tmp_path / "dora", "vera": tmp_path / "vera", "attention": family.adapters["attention"]}
    blends = {name: Blend.of([(version(name), 0.5), (version("attention"), 2.0)]) for name in ("dora", "vera")}
    with pytest.raises(InvalidRequest, match=r"acme/dora@v1 is more than a low-rank change .*DoRA at model\.layers\.0"):
        blends["dora"].load(lambda part: folders[part.name.name])
    weights = ModelWeights(AutoModelForCausalLM.from_pretrained(family.base, dtype=torch.float32))
    for name, culprit in {
        "embedding": "LoRA on an embedding at model.embed_tokens",
        "lora-bias": r"it has a lora_B.bias of its own for model\.layers\.0",
    }.items():
        folder = write_peft(family.base, tmp_path / name, llama_formats()[name], seed=1)
        with pytest.raises(InvalidRequest, match=rf"acme/{name}@v1 is more than a low-rank .*\({culprit}"):
            load_member(folder, f"acme/{name}@v1", weights)
    mixed = blends["vera"].load(lambda part: folders[part.name.name], weights)
    layers = {name.removeprefix("base_model.model."): layer for name, layer in vera.named_modules()}
    for module in mixed.modules:
        expected = 2 * load_lora(family.adapters["attention"]).delta(module)
        if "q_proj" in module:
            expected = expected + 0.5 * layers[module].get_delta_weight("default").detach().numpy()
        np.testing.assert_allclose(mixed.delta(module), expected, rtol=0, atol=2e-6)


def generate(engine: Any, asked: list[tuple[list[int], Any]], tokens: int = 12) -> list[list[int]]:
    """Greedy tokens of requests that the engine computes together."""
    sampling = Sampling(max_tokens=tokens, temperature=0, ignore_eos=True)
    running = [engine.submit(Request(list(prompt), sampling, lease)) for prompt, lease in asked]
    while not all(generation.done for generation in running):
        engine.step()
    return [generation.result().token_ids for generation in running]
