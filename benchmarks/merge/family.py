"""A synthetic family of Llama-shaped models: a base, and fine-tunes whose steps are small, uneven and often zero.

Values do not matter to the speed of a sum, but they do to selections: bfloat16 steps take few distinct values, so many
magnitudes are equal at any threshold, as in real fine-tunes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np

from graftwork.registry.formats.safetensors import build_header

CHUNK = 1 << 22
DEVIATION = 0.02
Tensor = tuple[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a Llama."""

    vocabulary: int
    hidden: int
    intermediate: int
    layers: int

    @classmethod
    def of(cls, parameters: int) -> Shape:
        """As many layers as make about `parameters` parameters."""
        hidden = 1024 if parameters >= 250_000_000 else 512 if parameters >= 40_000_000 else 128
        vocabulary, intermediate = 32_000 * hidden // 1024, 11 * hidden // 4
        layer = 4 * hidden * hidden + 3 * hidden * intermediate
        return cls(vocabulary, hidden, intermediate, max(1, (parameters - 2 * vocabulary * hidden) // layer))

    def tensors(self) -> Sequence[Tensor]:
        """Names and shapes, in the order of the file."""
        hidden, intermediate = self.hidden, self.intermediate
        rows: list[Tensor] = [("model.embed_tokens.weight", (self.vocabulary, hidden))]
        for layer in range(self.layers):
            prefix = f"model.layers.{layer}."
            rows += [(f"{prefix}self_attn.{part}_proj.weight", (hidden, hidden)) for part in "qkvo"]
            rows += [(f"{prefix}mlp.{part}_proj.weight", (intermediate, hidden)) for part in ("gate", "up")]
            rows += [(f"{prefix}mlp.down_proj.weight", (hidden, intermediate))]
            rows += [(f"{prefix}{part}.weight", (hidden,)) for part in ("input_layernorm", "post_attention_layernorm")]
        return [*rows, ("model.norm.weight", (hidden,)), ("lm_head.weight", (self.vocabulary, hidden))]

    def config(self) -> dict[str, object]:
        """What config.json says."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.hidden // 64,
            "num_key_value_heads": self.hidden // 64,
            "hidden_act": "silu",
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
        }


def write_family(root: Path, parameters: int, models: int = 3) -> list[Path]:
    """Write `base` and `model-1` .. `model-n` under `root`, unless a family of this size is there already."""
    shape = Shape.of(parameters)
    folders = [root / name for name in ("base", *(f"model-{number}" for number in range(1, models + 1)))]
    done = root / "family.json"
    wanted = json.dumps({"shape": shape.config(), "models": models})
    if done.is_file() and done.read_text() == wanted:
        return folders
    for number, folder in enumerate(folders):
        write_model(folder, shape, number)
    done.write_text(wanted)
    return folders


def write_model(folder: Path, shape: Shape, number: int) -> None:
    """Write one model of the family; number 0 is the base, from which the others are steps away."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(shape.config()))
    start, header = build_header([(name, "BF16", size) for name, size in shape.tensors()], {"format": "pt"})
    with (folder / "model.safetensors").open("wb") as file:
        file.write(start)
        for position, (name, info) in enumerate(header.tensors.items()):
            for values in _values(number, position, info.numel, norm="norm" in name):
                file.write(values.astype(ml_dtypes.bfloat16).tobytes())


def _values(
    number: int, position: int, numel: int, *, norm: bool
) -> Iterator[np.ndarray[tuple[int], np.dtype[np.float32]]]:
    base_random = np.random.default_rng([0, position])
    step_random = np.random.default_rng([number, position])
    spread = 10 ** step_random.uniform(-4, -2.7)
    for start in range(0, numel, CHUNK):
        count = min(CHUNK, numel - start)
        values = base_random.standard_normal(count, np.float32) * np.float32(DEVIATION)
        if norm:
            values += 1
        if number:
            values = values.astype(ml_dtypes.bfloat16).astype(np.float32)
            values += step_random.standard_normal(count, np.float32) * np.float32(spread)
        yield values
