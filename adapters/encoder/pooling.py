"""From the states of a text's tokens to its vector, as the checkpoint's sentence-transformers files say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812  the name every reader knows
from torch import Tensor

from graftwork.adapters.encoder.attention import Spans
from graftwork.errors import InvalidCheckpoint
from graftwork.registry.formats.config import read_json, read_object
from graftwork.registry.formats.folder import check_path

MODULES_FILE = "modules.json"
SENTENCE_FILE = "sentence_bert_config.json"
CONFIG_FILE = "config.json"

Pool = Callable[[Tensor], Tensor]
"""[sequences, length, width] -> [sequences, width]"""


def _weighted_mean(states: Tensor) -> Tensor:
    """Token i, counted from 1, has the weight i (SGPT, arXiv:2202.08904, section 3)."""
    weights = torch.arange(1, states.shape[1] + 1, dtype=states.dtype, device=states.device)
    return torch.einsum("nlw,l->nw", states, weights / weights.sum())


POOLS: Mapping[str, Pool] = {
    "cls": lambda states: states[:, 0],
    "max": lambda states: states.amax(1),
    "mean": lambda states: states.mean(1),
    "mean_sqrt_len_tokens": lambda states: states.sum(1) / states.shape[1] ** 0.5,
    "weightedmean": _weighted_mean,
    "lasttoken": lambda states: states[:, -1],
}
"""By sentence-transformers' name; of several chosen ones the vectors are put side by side in this order."""
FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass(frozen=True, slots=True)
class Pooling:
    """How a text's vector is made, and how the text is read."""

    modes: tuple[str, ...] = ("mean",)
    """Keys of POOLS."""
    normalize: bool = False
    """Whether vectors have length 1."""
    max_tokens: int | None = None
    """Tokens that a text may have, if the checkpoint says."""
    lower_case: bool = False

    def vectors(self, states: Tensor, spans: Spans) -> Tensor:
        """float32 [sequences, width * modes] of the packed `states` [rows, width]; not normalised."""
        parts = []
        for run in spans.runs:
            each = states[run.rows].view(run.sequences, run.length, -1).float()
            parts.append(torch.cat([POOLS[mode](each) for mode in self.modes], -1))
        return torch.cat(parts)

    def finish(self, vectors: Tensor, dimensions: int | None, normalize: bool | None) -> Tensor:
        """The first `dimensions` of every vector (Matryoshka, arXiv:2205.13147), then length 1 if it is wanted.

        vectors: [texts, width] -> [texts, dimensions or width]
        """
        cut = vectors[:, :dimensions]
        return F.normalize(cut, dim=-1) if (self.normalize if normalize is None else normalize) else cut


def read_pooling(folder: Path) -> Pooling:
    """What `modules.json` and the files it names say; the mean over the tokens, as it is, where there is none.

    Raises InvalidCheckpoint naming a module or an option that is not understood.
    """
    max_tokens, lower_case = _reading(folder)
    if not (folder / MODULES_FILE).is_file():
        return Pooling(max_tokens=max_tokens, lower_case=lower_case)
    modes: tuple[str, ...] = Pooling().modes
    normalize = False
    for kind, path in _modules(folder):
        if kind == "Pooling":
            modes = _modes(folder, f"{path}/{CONFIG_FILE}")
        elif kind == "Normalize":
            normalize = True
        elif kind != "Transformer":
            reason = f"{MODULES_FILE} asks for the module {kind}; understood are Transformer, Pooling and Normalize"
            raise InvalidCheckpoint(path=str(folder), reason=reason)
    return Pooling(modes, normalize, max_tokens, lower_case)


def _modules(folder: Path) -> list[tuple[str, str]]:
    """The class and the subfolder of each module. Raises InvalidCheckpoint, UnsafeFile."""
    listed = read_json(folder / MODULES_FILE, MODULES_FILE)
    if not isinstance(listed, list) or not all(isinstance(module, dict) for module in listed):
        raise InvalidCheckpoint(path=str(folder), reason=f"{MODULES_FILE} is not a list of modules")
    found = [(str(module.get("type", "")).rpartition(".")[2], str(module.get("path", ""))) for module in listed]
    return [(kind, check_path(path) if path else path) for kind, path in found]


def _modes(folder: Path, label: str) -> tuple[str, ...]:
    if not (folder / label).is_file():
        raise InvalidCheckpoint(path=str(folder), reason=f"{label}, which {MODULES_FILE} asks for, is missing")
    options = read_object(folder / label, label)
    chosen = options.get("pooling_mode")
    asked = [chosen] if isinstance(chosen, str) else chosen if isinstance(chosen, list) else []
    asked = [*asked, *(FLAGS.get(name, name) for name in options if options[name] is True and "_mode_" in name)]
    unknown = [mode for mode in asked if mode not in POOLS]
    if unknown or not asked:
        what = f"asks for {unknown[0]!r}" if unknown else "chooses no pooling"
        raise InvalidCheckpoint(path=str(folder), reason=f"{label} {what}; understood are {', '.join(POOLS)}")
    return tuple(mode for mode in POOLS if mode in asked)


def _reading(folder: Path) -> tuple[int | None, bool]:
    """How many tokens sentence-transformers reads of a text, and whether in lower case."""
    if not (folder / SENTENCE_FILE).is_file():
        return None, False
    options = read_object(folder / SENTENCE_FILE, SENTENCE_FILE)
    longest = options.get("max_seq_length")
    return longest if isinstance(longest, int) and longest > 0 else None, options.get("do_lower_case") is True
