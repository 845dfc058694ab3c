"""The files beside the weights: configuration and tokenizer, taken from the models that were merged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

from graftwork.merge.plan import Plan
from graftwork.merge.writer import OutputFolder
from graftwork.registry.formats.checkpoint import INDEX_SUFFIX
from graftwork.registry.formats.folder import ACCEPTED_SUFFIXES

CONFIG = "config.json"
TOKENIZER_PREFIXES = ("tokenizer", "vocab", "merges", "special_tokens_map", "added_tokens", "chat_template", "spiece")
TOKENIZER_SUFFIXES = (".model", ".spm", ".tiktoken", ".jinja")
CONFIGURATIONS = (
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "image_processor_config.json",
    "video_preprocessor_config.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
)


def write_companions(plan: Plan, output: OutputFolder) -> None:
    """Copy the donor's configuration, with the dtype of the output, and the chosen tokenizer."""
    if plan.donor.root.is_dir():
        _copy(plan.donor.root, CONFIGURATIONS, output)
        config = plan.donor.root / CONFIG
        if config.is_file():
            output.write_file(CONFIG, _with_dtype(config, plan))
        _copy_folders(plan.donor.root, output)
    if plan.tokenizer.root.is_dir():
        names = sorted(path.name for path in plan.tokenizer.root.iterdir() if path.is_file())
        _copy(plan.tokenizer.root, [name for name in names if is_tokenizer_file(name)], output)


def is_tokenizer_file(name: str) -> bool:
    """Whether a file at the top of a checkpoint belongs to its tokenizer."""
    accepted = Path(name).suffix in ACCEPTED_SUFFIXES and not name.endswith((".safetensors", INDEX_SUFFIX))
    return accepted and (name.startswith(TOKENIZER_PREFIXES) or name.endswith(TOKENIZER_SUFFIXES))


def _copy(root: Path, names: Iterable[str], output: OutputFolder) -> None:
    for name in names:
        if (root / name).is_file():
            output.write_file(name, (root / name).read_bytes())


def _copy_folders(root: Path, output: OutputFolder) -> None:
    """Small folders of settings, as sentence-transformers keeps for its pooling."""
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
        files = list(folder.iterdir())
        if files and all(path.suffix == ".json" and path.is_file() for path in files):
            shutil.copytree(folder, output.partial / folder.name)


def _with_dtype(config: Path, plan: Plan) -> bytes:
    """The configuration with its dtype set to the one the recipe asks for."""
    settings = json.loads(config.read_text(encoding="utf-8"))
    asked = plan.recipe.out_dtype or plan.recipe.dtype
    if asked is not None:
        known = [key for key in ("dtype", "torch_dtype") if key in settings] or ["torch_dtype"]
        settings.update(dict.fromkeys(known, asked))
    return json.dumps(settings, indent=2).encode() + b"\n"
