"""A layer of a decoder in one native call has the bits of its parts, and obeys whatever looks into them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from transformers.models.llama import modeling_llama

from graftwork.adapters.engine.batch import Piece
from graftwork.adapters.engine.decoder import StackForward
from graftwork.adapters.engine.decoder_layers import DecoderForward
from graftwork.adapters.engine.engine import Engine
from graftwork.kernels.dispatch import native_module
from graftwork.settings import Settings, load_settings
from tests.adapters.conftest import write_lora

if TYPE_CHECKING:
    from pathlib import Path

    from graftwork.adapters.attachment.resident import Resident
    from tests.adapters.conftest import EngineFactory, Family

Families = Callable[[str], "Family"]


def has_fast_linears() -> bool:
    native = native_module()
    return native is not None and bool(native.has_fast_linear("F32") and native.has_fast_linear("BF16"))


pytestmark = pytest.mark.skipif(not has_fast_linears(), reason="the processor has no AVX-512 for bfloat16")


def taken(engine: Engine, kind: type = DecoderForward) -> list[nn.Module]:
    return [m for m in engine._runner.model.modules() if isinstance(vars(m).get("forward"), kind)]


@contextmanager
def by_parts(engine: Engine) -> Iterator[None]:
    forwards: dict[Any, Any] = {each: each.forward for each in taken(engine) + taken(engine, StackForward)}
    for module, forward in forwards.items():
        module.forward = forward._plainly
    yield
    for module, forward in forwards.items():
        module.forward = forward


@contextmanager
def counted() -> Iterator[dict[type, int]]:
    """How often a layer, or all of them, were computed at once within."""
    calls: dict[type, int] = {DecoderForward: 0, StackForward: 0}

    def counting(kind: Any) -> Callable[..., Tensor | None]:
        plainly = kind.at_once

        def at_once(*args: Any) -> Tensor | None:
            found: Tensor | None = plainly(*args)
            calls[kind] += found is not None
            return found

        return at_once

    with pytest.MonkeyPatch.context() as patch:
        for kind in (DecoderForward, StackForward):
            patch.setattr(kind, "at_once", counting(kind))
        yield calls


def pieces(engine: Engine, residents: Sequence[Resident | None], counts: Sequence[int], start: int = 0) -> list[Piece]:
    """One a sequence, in pages of its own, side by side where they have the same adapter."""
    rng, pages = random.Random(7), engine._runner.cache.pages_for(64)
    return [
        Piece(
            [rng.randrange(256) for _ in range(count)],
            start,
            range(index * pages, (index + 1) * pages),
            residents[index * len(residents) // len(counts)],
            wants_logits=True,
        )
        for index, count in enumerate(counts)
    ]


@contextmanager
def each_layer(engine: Engine) -> Iterator[None]:
    """Layers are called one by one within."""
    (stack,) = taken(engine, StackForward)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stack, "forward", vars(stack)["forward"]._plainly)
        with counted() as calls:
            yield
    assert calls[DecoderForward] == engine.config.num_hidden_layers


def both_ways(engine: Engine, batch: list[Piece]) -> tuple[Tensor, Tensor]:
    at_once = engine._runner.forward(batch)
    with by_parts(engine):
        return at_once, engine._runner.forward(batch)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "mistral"])
@pytest.mark.parametrize("threads", [1, 3])
def test_the_bits_of_its_parts_with_and_without_adapters(
    architecture: str, threads: int, family_of: Families, engine_of: EngineFactory
) -> None:
    family = family_of(architecture)
    engine: Engine = engine_of(family)
    layers = engine.config.num_hidden_layers
    assert len(taken(engine)) == layers
    leases = [family.lease(engine, name) for name in (None, "everything", "mlp", "attention")]
    residents = [None if lease is None else lease.resident for lease in leases]
    native: Any = native_module()
    try:
        native.set_threads(threads)
        for start, counts in ((0, [3, 1, 30, 4]), (0, [1, 1]), (30, [1] * 8), (31, [2, 30])):
            batch = pieces(engine, residents, counts, start)
            with counted() as calls:
                at_once, parts = both_ways(engine, batch)
            assert torch.equal(at_once, parts)
            assert at_once.isfinite().all()
            assert calls == {StackForward: 1, DecoderForward: 0}
            with each_layer(engine):
                assert torch.equal(engine._runner.forward(batch), parts)
    finally:
        native.set_threads(load_settings().threads)
        for lease in leases:
            if lease is not None:
                lease.release()


def test_bfloat16_has_the_bits_of_its_parts(family_of: Families, tmp_path: Path) -> None:
    for architecture in ("llama", "qwen3"):
        engine = Engine.load(
            family_of(architecture).base, Settings(home=tmp_path, max_model_tokens=128), dtype="bfloat16"
        )
        assert len(taken(engine)) == engine.config.num_hidden_layers
        with counted() as calls:
            at_once, parts = both_ways(engine, pieces(engine, [None], [3, 1, 30, 4]))
        assert calls == {StackForward: 1, DecoderForward: 0}
        assert at_once.dtype == torch.bfloat16
        assert torch.equal(at_once, parts)
        engine.close()


@pytest.mark.parametrize("architecture", ["gemma3", "phi3", "mixtral", "gpt2", "cohere"])
def test_a_layer_of_other_parts_is_left_alone(architecture: str, family_of: Families, engine_of: EngineFactory) -> None:
    engine: Engine = engine_of(family_of(architecture))
    assert not taken(engine) + taken(engine, StackForward)


def test_a_layer_that_computes_something_else_is_left_alone(
    family_of: Families, monkeypatch: pytest.MonkeyPatch, engine_of: EngineFactory
) -> None:
    theirs = modeling_llama.LlamaDecoderLayer.forward

    def scaled(self: Any, *args: Any, **named: Any) -> Any:
        return theirs(self, *args, **named) * 1.01

    monkeypatch.setattr(modeling_llama.LlamaDecoderLayer, "forward", scaled)
    engine: Engine = engine_of(family_of("llama"))
    assert not taken(engine) + taken(engine, StackForward)


def test_a_decoder_that_computes_something_else_around_its_layers_is_called_layer_by_layer(
    family_of: Families, monkeypatch: pytest.MonkeyPatch, engine_of: EngineFactory
) -> None:
    theirs = modeling_llama.LlamaModel.forward

    def scaled(self: Any, *args: Any, **named: Any) -> Any:
        output = theirs(self, *args, **named)
        output.last_hidden_state = output.last_hidden_state * 1.01
        return output

    monkeypatch.setattr(modeling_llama.LlamaModel, "forward", scaled)
    engine: Engine = engine_of(family_of("llama"))
    assert len(taken(engine)) == engine.config.num_hidden_layers
    assert not taken(engine, StackForward)


@pytest.mark.parametrize("name", ["embed_tokens", "norm", "rotary_emb"])
def test_hooks_around_the_layers_change_the_answer(name: str, family_of: Families, engine_of: EngineFactory) -> None:
    engine: Engine = engine_of(family_of("llama"))
    batch = pieces(engine, [None], [5, 2])
    before = engine._runner.forward(batch)

    def change(module: nn.Module, args: object, output: Any) -> Any:
        return tuple(each * 0.5 for each in output) if isinstance(output, tuple) else output * 0.5

    engine._runner.model.get_submodule(f"model.{name}").register_forward_hook(change)
    with counted() as calls:
        changed, parts = both_ways(engine, batch)
    assert calls[StackForward] == 1
    assert torch.equal(changed, parts)
    assert not torch.equal(changed, before)


PARTS = [
    "input_layernorm",
    "self_attn",
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "self_attn.q_norm",
    "self_attn.k_norm",
    "post_attention_layernorm",
    "mlp",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
]


@pytest.mark.parametrize("name", PARTS)
def test_a_hook_of_any_part_is_called(name: str, family_of: Families, engine_of: EngineFactory) -> None:
    engine: Engine = engine_of(family_of("qwen3"))
    part = engine._runner.model.get_submodule(f"model.layers.0.{name}")
    batch, seen = pieces(engine, [None], [5, 2]), []
    before, layers = engine._runner.forward(batch), engine.config.num_hidden_layers
    with counted() as calls:
        hook = part.register_forward_hook(lambda module, args, output: seen.append(output))
        assert torch.equal(engine._runner.forward(batch), before)
    assert (len(seen), calls) == (1, {DecoderForward: layers - 1, StackForward: 0})
    hook.remove()
    with counted() as calls:
        engine._runner.forward(batch)
    assert calls == {StackForward: 1, DecoderForward: 0}


@pytest.mark.parametrize("name", [name for name in PARTS if "norm" in name or "proj" in name])
@torch.inference_mode()
def test_a_new_weight_of_any_part_counts(name: str, family_of: Families, engine_of: EngineFactory) -> None:
    engine: Engine = engine_of(family_of("qwen3"))
    part: Any = engine._runner.model.get_submodule(f"model.layers.1.{name}")
    batch = pieces(engine, [None], [5, 2])
    before = engine._runner.forward(batch)
    part._parameters["weight"] = nn.Parameter(part.weight * torch.linspace(0.5, 1.5, part.weight.shape[-1]), False)
    with counted() as calls:
        changed, parts = both_ways(engine, batch)
    assert torch.equal(changed, parts)
    assert not torch.equal(changed, before)
    assert calls == {DecoderForward: engine.config.num_hidden_layers - 1, StackForward: 0}


def test_what_one_adapter_has_beyond_low_rank_keeps_layers_apart_only_while_it_computes(
    family: Family, engine: Engine, tmp_path: Path
) -> None:
    options = {"r": 2, "target_modules": ["v_proj"], "layers_to_transform": [1], "use_dora": True}
    folder = write_lora(family.base, tmp_path / "dora", options, seed=3)
    layers = engine.config.num_hidden_layers
    with engine.residency.acquire("dora", folder) as dora, family.pin(engine, "everything") as plain:
        with counted() as calls:
            at_once, parts = both_ways(engine, pieces(engine, [None, dora.resident, plain.resident], [4, 2, 7]))
        assert calls == {DecoderForward: layers - 1, StackForward: 0}
        assert torch.equal(at_once, parts)
        with counted() as calls:
            engine._runner.forward(pieces(engine, [None, plain.resident], [4, 7]))
        assert calls == {DecoderForward: 0, StackForward: 1}
        with counted() as calls:
            again = engine._runner.forward(pieces(engine, [None, dora.resident, plain.resident], [4, 2, 7]))
        assert calls == {DecoderForward: layers - 1, StackForward: 0}
        assert torch.equal(again, parts)


def test_keys_and_values_of_another_layer_are_refused() -> None:
    native: Any = native_module()
    generator = torch.Generator().manual_seed(0)
    weights = {n: torch.randn(n, 8, generator=generator) for n in (8, 4, 12)}

    def linear(out: int) -> Any:
        return native.LinearLayer(native.Array(weights[out].data_ptr(), "F32", (out, 8)), None)

    norm = native.Array(weights[8].data_ptr(), "F32", (8,)), 1e-6
    gated = native.GatedLayers(linear(8), linear(8), linear(8), "silu")
    layer = native.DecoderLayer(norm, linear(8), linear(4), linear(4), linear(8), None, None, norm, gated, 1.0, 0)
    with pytest.raises(ValueError, match="do not fit each other"):
        native.DecoderLayer(norm, linear(8), linear(4), linear(4), linear(12), None, None, norm, gated, 1.0, 0)
    keys, rows = torch.zeros(2, 3, 4, 8), torch.zeros(1, 8)
    view = native.Array(keys.data_ptr(), "F32", keys.shape)
    turn = native.Array(rows.data_ptr(), "F32", (1, 4))
    numbers = torch.ones(1, 2, dtype=torch.int32)
    table = native.Array(numbers.data_ptr(), "I32", (1, 2))
    step, added = native.Step(turn, turn, table, table), [(None, None)] * 7
    with pytest.raises(ValueError, match="not those of this layer"):
        layer.compute(rows.data_ptr(), rows.data_ptr(), step, (view, view), added)
    with pytest.raises(ValueError, match="another length"):
        native.DecoderLayers([layer]).compute(rows.data_ptr(), rows.data_ptr(), step, [], [added])
