"""The files beside the weights: configuration and tokenizer, taken from the models that were merged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from graftwork.merge.models.tokens.chat_template import TEMPLATE_FILE, TOKENIZER_CONFIG
from graftwork.merge.models.tokens.vocabulary import TOKENIZER_FILE
from graftwork.merge.plan.plan import Plan
from graftwork.merge.run.folder.configuration import CONFIG, GENERATION, configuration_of
from graftwork.registry.formats.checkpoint import INDEX_SUFFIX
from graftwork.registry.formats.folder import ACCEPTED_SUFFIXES

TOKENIZER_PREFIXES = (
    "tokenizer",
    "vocab",
    "merges",
    "special_tokens_map",
    "added_tokens",
    "chat_template",
    "spiece",
    "normalizer",
)
TOKENIZER_SUFFIXES = (".model", ".spm", ".tiktoken", ".jinja")
REBUILT = (TOKENIZER_CONFIG, "special_tokens_map.json", TEMPLATE_FILE, "chat_template.json")
"""What is right beside a tokenizer.json that was rebuilt; vocab.json, merges.txt and the like would contradict it."""
CONFIGURATIONS = (
    "preprocessor_config.json",
    "processor_config.json",
    "image_processor_config.json",
    "video_preprocessor_config.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
)


class SmallFiles(Protocol):
    """Where small files are written."""

    @property
    def partial(self) -> Path:
        """The folder."""

    def write_file(self, name: str, content: bytes) -> None:
        """Write one of them."""


def write_companions(plan: Plan, output: SmallFiles) -> None:
    """Write the donor's configuration with what the merge changed, and the tokenizer that the recipe asks for."""
    if plan.donor.root.is_dir():
        _copy(plan.donor.root, CONFIGURATIONS, output)
        for name in (CONFIG, GENERATION):
            content = configuration_of(plan, name)
            if content is not None:
                output.write_file(name, content)
        _copy_folders(plan.donor.root, output)
    if plan.tokenizer.origin.root.is_dir():
        for name, content in _tokenizer_files(plan):
            output.write_file(name, content)


def _tokenizer_files(plan: Plan) -> Iterator[tuple[str, bytes]]:
    """The tokenizer's files; of one that was rebuilt, only those that do not repeat the vocabulary in other forms."""
    tokenizer, root = plan.tokenizer, plan.tokenizer.origin.root
    names = sorted(path.name for path in root.iterdir() if path.is_file() and is_tokenizer_file(path.name))
    for name in names:
        if name == TEMPLATE_FILE and plan.chat_template is not None:
            continue
        if tokenizer.is_rebuilt and tokenizer.vocabulary is not None:
            if name == TOKENIZER_FILE:
                yield name, tokenizer.vocabulary.as_json()
                continue
            if name not in REBUILT:
                continue
        content = (root / name).read_bytes()
        yield name, _tokenizer_config(content, plan) if name == TOKENIZER_CONFIG else content
    if plan.chat_template is not None:
        yield TEMPLATE_FILE, plan.chat_template.encode()


def _tokenizer_config(content: bytes, plan: Plan) -> bytes:
    """The tokenizer's settings without a template that is replaced, and with the tokens that were added."""
    vocabulary = plan.tokenizer.vocabulary if plan.tokenizer.is_rebuilt else None
    if plan.chat_template is None and vocabulary is None:
        return content
    settings = json.loads(content)
    if plan.chat_template is not None:
        settings.pop("chat_template", None)
    if vocabulary is not None and "added_tokens_decoder" in settings:
        settings["added_tokens_decoder"] = {
            str(entry["id"]): {key: value for key, value in entry.items() if key != "id"} for entry in vocabulary.added
        }
    return json.dumps(settings, indent=2, ensure_ascii=False).encode() + b"\n"


def is_tokenizer_file(name: str) -> bool:
    """Whether a file at the top of a checkpoint belongs to its tokenizer."""
    accepted = Path(name).suffix in ACCEPTED_SUFFIXES and not name.endswith((".safetensors", INDEX_SUFFIX))
    return accepted and (name.startswith(TOKENIZER_PREFIXES) or name.endswith(TOKENIZER_SUFFIXES))


def _copy(root: Path, names: Iterable[str], output: SmallFiles) -> None:
    for name in names:
        if (root / name).is_file():
            output.write_file(name, (root / name).read_bytes())


def _copy_folders(root: Path, output: SmallFiles) -> None:
    """Small folders of settings, as sentence-transformers keeps for its pooling, and of further chat templates."""
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
        files = list(folder.iterdir())
        if files and all(path.suffix in (".json", ".jinja") and path.is_file() for path in files):
            shutil.copytree(folder, output.partial / folder.name)
