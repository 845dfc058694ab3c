"""A tiny random base per architecture, real PEFT adapters for it, and transformers' own answers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    CohereConfig,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Phi3Config,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from graftwork.adapters.engine.engine import Engine
from graftwork.adapters.hosting.host import Host
from graftwork.adapters.residency.lease import Lease
from graftwork.registry.refs import Name, Ref
from graftwork.registry.registry import Registry
from graftwork.registry.transfer.importer import import_source
from graftwork.registry.versions.version import Version
from graftwork.settings import Settings

ATTENTION = ["q_proj", "v_proj"]
MLP = ["gate_proj", "up_proj", "down_proj"]
LORAS: dict[str, dict[str, Any]] = {
    "attention": {"r": 4, "lora_alpha": 8, "target_modules": ATTENTION},
    "everything": {"r": 8, "lora_alpha": 4, "use_rslora": True, "target_modules": "all-linear"},
    "mlp": {"r": 3, "lora_alpha": 9, "target_modules": MLP},
    "pattern": {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": [*ATTENTION, "down_proj"],
        "rank_pattern": {"q_proj": 6, r"layers\.1\.mlp\.down_proj": 2},
        "alpha_pattern": {"v_proj": 2},
    },
    "head": {"r": 5, "lora_alpha": 10, "target_modules": ["lm_head", "o_proj"]},
}
GPT2_LORAS: dict[str, dict[str, Any]] = {
    "attention": {"r": 4, "lora_alpha": 8, "target_modules": ["c_attn"], "fan_in_fan_out": True},
    "everything": {"r": 8, "lora_alpha": 4, "target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True},
}
BERT_LORAS: dict[str, dict[str, Any]] = {
    "attention": {"r": 4, "lora_alpha": 8, "target_modules": ["query", "value"]},
    "everything": {"r": 8, "lora_alpha": 4, "target_modules": "all-linear"},
}
OTHER_LORAS: dict[str, dict[str, dict[str, Any]]] = {
    "gpt2": GPT2_LORAS,
    "bert": BERT_LORAS,
    "phi3": {"mlp": {"r": 3, "lora_alpha": 9, "target_modules": ["qkv_proj", "gate_up_proj", "down_proj"]}},
    "mixtral": {"attention": LORAS["attention"]},
}
SIZES: dict[str, Any] = {
    "vocab_size": 260,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.15,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 258,
    "tie_word_embeddings": False,
}
CONFIGS: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaConfig(**{**SIZES, "num_hidden_layers": 3}),
    "qwen2": lambda: Qwen2Config(**SIZES),
    "mistral": lambda: MistralConfig(**SIZES, sliding_window=9),
    "bert": lambda: BertConfig(**{**SIZES, "tie_word_embeddings": True}, is_decoder=True),
    "qwen3": lambda: Qwen3Config(**SIZES, head_dim=16),
    "gemma3": lambda: Gemma3TextConfig(**SIZES, head_dim=16, sliding_window=9),
    "phi3": lambda: Phi3Config(**SIZES),
    "mixtral": lambda: MixtralConfig(**SIZES, num_local_experts=3),
    "cohere": lambda: CohereConfig(**SIZES, use_qk_norm=True),
    "gpt2": lambda: GPT2Config(
        vocab_size=260,
        n_embd=64,
        n_layer=2,
        n_head=4,
        n_positions=256,
        initializer_range=0.15,
        bos_token_id=256,
        eos_token_id=257,
        pad_token_id=258,
    ),
}


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, and three special ones."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    specials = ["<s>", "</s>", "<pad>"]
    vocabulary = {token: index for index, token in enumerate([*alphabet, *specials])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )


@dataclass
class Family:
    """A base and its adapters on disk."""

    base: Path
    adapters: dict[str, Path]
    _models: dict[str | None, Any] = field(default_factory=dict)
    _answers: dict[Any, list[int]] = field(default_factory=dict)

    def greedy(self, adapter: str | None, prompt: list[int], tokens: int, *, ignore_eos: bool = False) -> list[int]:
        """What transformers' own `generate` gives on the merged weights, this request alone."""
        model = self._merged(adapter)
        ids = torch.tensor([prompt])
        options: dict[str, Any] = {"eos_token_id": None} if ignore_eos else {}
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            do_sample=False,
            pad_token_id=258,
            **options,
        )
        return [int(token) for token in out[0, len(prompt) :]]

    def greedy_cached(self, adapter: str | None, prompt: list[int], tokens: int) -> list[int]:
        """`greedy`, computed once."""
        key = (adapter, tuple(prompt), tokens)
        if key not in self._answers:
            self._answers[key] = self.greedy(adapter, prompt, tokens)
        return self._answers[key]

    def digest(self, adapter: str) -> str:
        return hashlib.sha256((self.adapters[adapter] / "adapter_model.safetensors").read_bytes()).hexdigest()

    def lease(self, engine: Engine, adapter: str | None) -> Lease | None:
        """A pin on the adapter, or None for the base."""
        return None if adapter is None else self.pin(engine, adapter)

    def pin(self, engine: Engine, adapter: str) -> Lease:
        return engine.residency.acquire(self.digest(adapter), self.adapters[adapter], name=adapter)

    def _merged(self, adapter: str | None) -> Any:
        if adapter not in self._models:
            model: Any = AutoModelForCausalLM.from_pretrained(self.base, dtype=torch.float32)
            if adapter is not None:
                adapted: Any = PeftModel.from_pretrained(model, str(self.adapters[adapter]))
                model = adapted.merge_and_unload()
            self._models[adapter] = model.eval()
        return self._models[adapter]


def write_lora(base: Path, folder: Path, options: dict[str, Any], *, seed: int, strength: float = 0.3) -> Path:
    """A PEFT adapter whose B is not zero, so that it changes what the base says."""
    torch.manual_seed(seed)
    model: Any = AutoModelForCausalLM.from_pretrained(base)
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **options))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, strength)
    model.save_pretrained(str(folder), save_embedding_layers=False)
    return folder


@pytest.fixture(scope="session")
def family_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Family]:
    """The family of an architecture, made once a session."""

    @cache
    def family(architecture: str) -> Family:
        root = tmp_path_factory.mktemp(architecture)
        torch.manual_seed(1)
        model: Any = AutoModelForCausalLM.from_config(CONFIGS[architecture](), dtype=torch.float32)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("bias"):
                    parameter.normal_(0, 0.3)
        model.save_pretrained(root / "base")
        byte_tokenizer().save_pretrained(root / "base")
        loras = OTHER_LORAS.get(architecture, LORAS)
        adapters = {
            name: write_lora(root / "base", root / name, options, seed=seed)
            for seed, (name, options) in enumerate(loras.items())
        }
        return Family(root / "base", adapters)

    return family


@pytest.fixture
def family(family_of: Callable[[str], Family]) -> Family:
    """The Llama family."""
    return family_of("llama")


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(
        home=tmp_path_factory.mktemp("home"),
        max_sequences=6,
        max_model_tokens=128,
        max_queue=64,
        prefill_tokens=24,
        adapter_rank_rows=32,
    )


EngineFactory = Callable[..., Engine]


@pytest.fixture
def engine_of(settings: Settings) -> Iterator[EngineFactory]:
    """Make engines, with settings of their own if wanted, that are closed when the test ends."""
    engines: list[Engine] = []

    def make(family: Family, **changes: Any) -> Engine:
        engines.append(Engine.load(family.base, replace(settings, **changes)))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


@pytest.fixture
def engine(family: Family, engine_of: EngineFactory) -> Engine:
    """An engine that the test steps itself."""
    return engine_of(family)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with Registry.open(Settings(home=tmp_path / "home")) as registry:
        yield registry


@pytest.fixture
def versions(registry: Registry, family: Family) -> dict[str, Version]:
    """The Llama family: a base, and two versions of `team/skill`, the alias `prod` on the first."""
    base = import_source(registry, str(family.base), Name.parse("team/base"))
    on = Ref.parse("team/base")
    name = Name.parse("team/skill")
    first = import_source(registry, str(family.adapters["attention"]), name, base=on, aliases=["prod"])
    second = import_source(registry, str(family.adapters["everything"]), name, base=on)
    return {"base": base, "attention": first, "everything": second}


@pytest.fixture
def host(registry: Registry, settings: Settings) -> Iterator[Host]:
    host = Host(registry, settings)
    yield host
    host.close()
