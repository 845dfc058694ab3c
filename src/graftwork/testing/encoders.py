"""Tiny encoders with random weights, and PEFT adapters for them: for vectors, or with a classification head each."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    AlbertConfig,
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    ModernBertConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
)

SPECIALS = ("[PAD]", "[CLS]", "[SEP]", "[UNK]")
SIZES: dict[str, Any] = {
    "vocab_size": 260,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 80,
    "initializer_range": 0.15,
    "pad_token_id": 1,
}
CONFIGS: Mapping[str, Callable[..., Any]] = {
    "bert": lambda **more: BertConfig(**SIZES, **more),
    "roberta": lambda **more: RobertaConfig(**SIZES, **more),
    "distilbert": lambda **more: DistilBertConfig(
        vocab_size=260, dim=32, hidden_dim=48, n_layers=2, n_heads=4, max_position_embeddings=80, pad_token_id=1, **more
    ),
    "albert": lambda **more: AlbertConfig(**SIZES, embedding_size=16, **more),
    "modernbert": lambda **more: ModernBertConfig(**SIZES, local_attention=8, classifier_pooling="mean", **more),
}
LINEARS: Mapping[str, list[str]] = {
    "bert": ["query", "value", "dense"],
    "roberta": ["query", "key", "value"],
    "distilbert": ["q_lin", "v_lin", "lin1"],
    "albert": ["query", "ffn"],
    "modernbert": ["Wqkv", "Wo"],
}


@dataclass
class EncoderFamily:
    """A base and its adapters on disk, and what transformers and PEFT compute with them, one text after the other."""

    kind: str
    base: Path
    adapters: dict[str, Path] = field(default_factory=dict)
    _models: dict[Any, Any] = field(default_factory=dict)

    def states(self, adapter: str | None, inputs: Mapping[str, list[int]]) -> Tensor:
        """The last states [tokens, width] of one text."""
        model = self._model(adapter)
        trunk: Any = (model.get_base_model() if isinstance(model, PeftModel) else model).base_model
        with torch.inference_mode():
            states: Tensor = trunk(**_batch_of_one(inputs)).last_hidden_state[0]
        return states

    def logits(self, adapter: str | None, inputs: Mapping[str, list[int]]) -> Tensor:
        """The logits [labels] of one text."""
        with torch.inference_mode():
            logits: Tensor = self._model(adapter)(**_batch_of_one(inputs)).logits[0]
        return logits

    def add(self, name: str, *, labels: int | None, seed: int, rank: int = 4, **options: Any) -> Path:
        """A LoRA adapter: around a classification head of so many labels, or (None) of the encoder alone."""
        folder = self.base.parent / name
        kind: Any = AutoModel if labels is None else AutoModelForSequenceClassification
        config = AutoConfig.from_pretrained(self.base, **({} if labels is None else {"num_labels": labels}))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model: Any = kind.from_pretrained(self.base, config=config, ignore_mismatched_sizes=True)
            asked = {"r": rank, "lora_alpha": 8, "target_modules": LINEARS[self.kind], **options}
            task = "FEATURE_EXTRACTION" if labels is None else "SEQ_CLS"
            model = get_peft_model(model, LoraConfig(task_type=task, **asked))
            with torch.no_grad():
                for parameter_name, parameter in model.named_parameters():
                    if "lora_B" in parameter_name or "modules_to_save" in parameter_name:
                        parameter.normal_(0, 0.3)
        model.save_pretrained(str(folder), save_embedding_layers=False)
        if labels is not None:
            named = {str(number): f"{name}{number}" for number in range(labels)}
            (folder / "config.json").write_text(json.dumps({"id2label": named}))
        self.adapters[name] = folder
        self._labels[name] = labels
        return folder

    def __post_init__(self) -> None:
        self._labels: dict[str, int | None] = {}

    def _model(self, adapter: str | None) -> Any:
        if adapter not in self._models:
            labels = self._labels.get(adapter or "")
            config = AutoConfig.from_pretrained(self.base)
            if labels is not None:
                config.num_labels = labels
            alone = adapter is not None and labels is None
            kind: Any = AutoModel if alone else AutoModelForSequenceClassification
            model = kind.from_pretrained(self.base, config=config, ignore_mismatched_sizes=True)
            if adapter is not None:
                model = PeftModel.from_pretrained(model, str(self.adapters[adapter]))
            self._models[adapter] = model.eval()
        return self._models[adapter]


def encoder_tokenizer() -> PreTrainedTokenizerFast:
    """One token a character of Latin-1, between [CLS] and [SEP]; a pair of texts has another [SEP] in between."""
    vocabulary = {token: index for index, token in enumerate([*SPECIALS[1:2], SPECIALS[0], *SPECIALS[2:]])}
    vocabulary |= {chr(code): len(vocabulary) + code for code in range(256)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    ends = [(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token="[PAD]",  # noqa: S106
        cls_token="[CLS]",  # noqa: S106
        sep_token="[SEP]",  # noqa: S106
        unk_token="[UNK]",  # noqa: S106
    )


def tiny_encoder(root: Path, kind: str, *, labels: int | None = None, seed: int = 0) -> EncoderFamily:
    """A base of the architecture `kind` in `root`, with a classification head of `labels`, or (None) without a head."""
    more = {} if labels is None else {"num_labels": labels}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        maker: Any = AutoModel if labels is None else AutoModelForSequenceClassification
        model: Any = maker.from_config(CONFIGS[kind](**more), dtype=torch.float32)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("bias"):
                    parameter.normal_(0, 0.3)
    model.save_pretrained(root / "base")
    encoder_tokenizer().save_pretrained(root / "base")
    return EncoderFamily(kind, root / "base")


def _batch_of_one(inputs: Mapping[str, list[int]]) -> dict[str, Tensor]:
    return {name: torch.tensor([values]) for name, values in inputs.items()}
