"""A checkpoint folder as a transformers model, complete and unmodified, with its tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging

from graftwork.errors import InvalidCheckpoint, InvalidSetting
from graftwork.registry.catalog.bases import CONFIG_FILE
from graftwork.registry.formats.config import read_object

CAUSAL = frozenset(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
"""The `model_type`s of which transformers has a causal language model."""
OTHER_HEADS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForMaskedLM")
PREFERENCES = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What an engine is made of."""

    folder: Path
    name: str
    """What messages call it."""
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @property
    def max_positions(self) -> int | None:
        """Positions the model was made for, if it says."""
        positions = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return positions if isinstance(positions, int) else None

    @property
    def heads(self) -> list[nn.Module]:
        """The modules that follow the trunk: they see only the rows whose logits are wanted."""
        trunk = set(self.model.base_model.modules())
        return [module for module in self.model.modules() if module not in trunk and module is not self.model]

    @property
    def vocabulary(self) -> int:
        """Tokens that the input embedding knows."""
        embedding: Any = self.model.get_input_embeddings()
        return int(embedding.weight.shape[0])

    @property
    def preferred(self) -> Mapping[str, float]:
        """What its generation_config.json says of sampling, by the names of `PREFERENCES`; absent what it does not."""
        said = {name: getattr(self.model.generation_config, name, None) for name in PREFERENCES}
        return {name: value for name, value in said.items() if isinstance(value, int | float)}

    @property
    def end_ids(self) -> frozenset[int]:
        """The tokens that end a sequence."""
        generation = self.model.generation_config
        ids = generation.eos_token_id if generation is not None else None
        if ids is None:
            ids = self.tokenizer.eos_token_id
        return frozenset([ids] if isinstance(ids, int) else ids or [])


def load_checkpoint(folder: Path, *, name: str, device: str, dtype: str | None) -> Checkpoint:
    """Load a causal language model from safetensors; `dtype` None keeps the checkpoint's own.

    Raises InvalidSetting for an unknown dtype, and InvalidCheckpoint for a folder that is not a complete causal
    language model with a tokenizer, or whose attention is not open to other implementations.
    """
    if dtype is not None and dtype not in DTYPES:
        raise InvalidSetting(name="dtype", value=dtype, expected=f"one of {', '.join(DTYPES)}")
    if not (folder / CONFIG_FILE).is_file():
        raise InvalidCheckpoint(path=str(folder), reason=f"it has no {CONFIG_FILE}")
    _require_causal(folder)
    tokenizer = load_tokenizer(folder)
    try:
        with _quiet():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=DTYPES[dtype] if dtype else "auto",
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise InvalidCheckpoint(path=str(folder), reason=str(error).strip().splitlines()[0].rstrip(".")) from error
    model, report = loaded
    _require_complete(report, folder)
    if not model._supports_attention_backend:
        reason = f"the attention of {type(model).__name__} cannot be replaced, which the embedded engine needs"
        raise InvalidCheckpoint(path=str(folder), reason=reason)
    return Checkpoint(folder, name, model.to(device).eval(), tokenizer)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint. Raises InvalidCheckpoint for a folder that has none that transformers can load."""
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = "it has no tokenizer that transformers can load (tokenizer.json, or what its kind needs instead)"
        raise InvalidCheckpoint(path=str(folder), reason=reason) from error
    return tokenizer


def require_packable(checkpoint: Checkpoint, max_tokens: int) -> None:
    """Refuse a rotary embedding that changes for every sequence of a batch once one of them is long.

    Raises InvalidCheckpoint naming the limit under which it does not.
    """
    config = checkpoint.model.config.get_text_config()
    parameters = getattr(config, "rope_parameters", None) or {}
    for rope in [parameters, *(value for value in parameters.values() if isinstance(value, dict))]:
        original = rope.get("original_max_position_embeddings") or checkpoint.max_positions or max_tokens
        if rope.get("rope_type") in ("dynamic", "longrope") and max_tokens > original:
            reason = (
                f"its {rope['rope_type']} rotary embedding depends on the longest sequence of a batch "
                f"beyond {original} tokens; set max_model_tokens to {original} or less"
            )
            raise InvalidCheckpoint(path=str(checkpoint.folder), reason=reason)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bars."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _require_causal(folder: Path) -> None:
    config = read_object(folder / CONFIG_FILE, CONFIG_FILE)
    kind, named = config.get("model_type"), config.get("architectures")
    architecture = str(named[0]) if isinstance(named, list) and named else f"model of type {kind}"
    if kind not in CAUSAL or config.get("is_encoder_decoder") or architecture.endswith(OTHER_HEADS):
        accepted = "causal language models and encoders such as BERT, RoBERTa or ModernBERT"
        reason = f"it is a {architecture}, and the embedded engine serves {accepted}"
        raise InvalidCheckpoint(path=str(folder), reason=reason)


def _require_complete(report: dict[str, Any], folder: Path) -> None:
    for what in ("missing_keys", "mismatched_keys"):
        if report.get(what):
            names = sorted(str(name) for name in report[what])
            reason = f"{len(names)} of the model's tensors are {what.removesuffix('_keys')}, {names[0]} among them"
            raise InvalidCheckpoint(path=str(folder), reason=reason)
