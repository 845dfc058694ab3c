"""A checkpoint folder as a transformers encoder, with its tokenizer, its pooling and its classification head."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
)
from transformers.utils import logging

from graftwork.adapters.encoder.pooling import Pooling, read_pooling
from graftwork.adapters.engine.checkpoint import DTYPES, load_tokenizer
from graftwork.errors import InvalidCheckpoint, InvalidSetting
from graftwork.registry.formats.config import read_object
from graftwork.registry.formats.encoders import is_encoder

POOLER = "pooler"
CONFIG_FILE = "config.json"
CLASSIFIES = "ForSequenceClassification"


@dataclass(frozen=True, slots=True)
class EncoderCheckpoint:
    """What an encoder engine is made of."""

    folder: Path
    name: str
    """What messages call it."""
    model: PreTrainedModel
    """With a classification head where transformers has one; the checkpoint may lack its weights."""
    tokenizer: PreTrainedTokenizerBase
    pooling: Pooling
    missing: frozenset[str]
    """Modules of the head that the checkpoint has no weights for: a classification needs them from an adapter."""

    @property
    def trunk(self) -> PreTrainedModel:
        """The encoder without the classification head."""
        trunk = self.model.base_model
        assert isinstance(trunk, PreTrainedModel)  # noqa: S101  its class's promise
        return trunk

    @property
    def prefix(self) -> str:
        """What the paths of the trunk's modules begin with: `bert.`, or nothing in a model without a head."""
        return "" if self.trunk is self.model else f"{self.model.base_model_prefix}."

    @property
    def vocabulary(self) -> int:
        """Tokens that the input embedding knows."""
        embedding: Any = self.model.get_input_embeddings()
        return int(embedding.weight.shape[0])


def is_encoder_folder(folder: Path) -> bool:
    """Whether the folder's `config.json` is of an encoder; False without one."""
    path = folder / CONFIG_FILE
    return path.is_file() and is_encoder(read_object(path, CONFIG_FILE))


def load_encoder(
    folder: Path, *, name: str, device: str, dtype: str | None, with_head: bool = True
) -> EncoderCheckpoint:
    """Load an encoder from safetensors; `dtype` None keeps the checkpoint's own, `with_head` False leaves the head out.

    Raises InvalidSetting for an unknown dtype, and InvalidCheckpoint for a folder that is not a complete encoder with
    a tokenizer, or whose attention is not open to other implementations.
    """
    if dtype is not None and dtype not in DTYPES:
        raise InvalidSetting(name="dtype", value=dtype, expected=f"one of {', '.join(DTYPES)}")
    config = read_object(folder / CONFIG_FILE, CONFIG_FILE)
    has_head = with_head and config.get("model_type") in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES
    kind: Any = AutoModelForSequenceClassification if has_head else AutoModel
    tokenizer = load_tokenizer(folder)
    try:
        with _quiet():
            model, report = kind.from_pretrained(
                folder,
                dtype=DTYPES[dtype] if dtype else "auto",
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise InvalidCheckpoint(path=str(folder), reason=str(error).strip().splitlines()[0].rstrip(".")) from error
    if not model._supports_attention_backend:
        reason = f"the attention of {type(model).__name__} cannot be replaced, which the embedded engine needs"
        raise InvalidCheckpoint(path=str(folder), reason=reason)
    missing = _missing_head(model, report, config, folder)
    return EncoderCheckpoint(folder, name, model.to(device).eval(), tokenizer, read_pooling(folder), missing)


def _missing_head(
    model: PreTrainedModel, report: Mapping[str, Any], config: Mapping[str, object], folder: Path
) -> frozenset[str]:
    """The modules of the head without weights. Raises InvalidCheckpoint when the trunk lacks some.

    A head for something else (the tokens of a text, a question's answer) may have the same names; it is none.
    """
    missing = sorted(str(name) for name in report["missing_keys"])
    prefix = f"{model.base_model_prefix}."
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or not str(architectures[0] if architectures else "").endswith(CLASSIFIES):
        missing += [name for name, _ in model.named_parameters() if not name.startswith(prefix)]
    head = [name for name in missing if not name.startswith(prefix) or name.startswith(f"{prefix}{POOLER}.")]
    trunk = [name for name in missing if name not in head]
    wrong = trunk or sorted(str(name) for name in report.get("mismatched_keys") or ())
    if wrong:
        what = "missing" if trunk else "of another shape"
        reason = f"{len(wrong)} of the model's tensors are {what}, {wrong[0]} among them"
        raise InvalidCheckpoint(path=str(folder), reason=reason)
    return frozenset(name.rpartition(".")[0] for name in head)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bars, and without its table of the head's tensors that are missing."""
    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
