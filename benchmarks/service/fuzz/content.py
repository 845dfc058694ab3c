"""Targets that read files: safetensors headers, adapters, checkpoints, expert sets."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.service.fuzz import mutation
from graftwork.registry.formats.checkpoint import read_checkpoint
from graftwork.registry.formats.experts import parse_document, read_experts
from graftwork.registry.formats.finite import check_finite
from graftwork.registry.formats.peft import check_against_base, read_adapter
from graftwork.registry.formats.safetensors import DTYPE_BYTES, read_header

HIDDEN, WIDE, VOCABULARY = 8, 16, 12
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Shape:
    """A tensor of a base, as far as an adapter asks."""

    shape: tuple[int, ...]


def base_shapes() -> Shapes:
    """A Llama of two layers."""
    shapes: Shapes = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN), "lm_head.weight": (VOCABULARY, HIDDEN)}
    for layer in range(2):
        prefix = f"model.layers.{layer}"
        for name in "qkvo":
            shapes[f"{prefix}.self_attn.{name}_proj.weight"] = (HIDDEN, HIDDEN)
        shapes[f"{prefix}.mlp.up_proj.weight"] = (WIDE, HIDDEN)
        shapes[f"{prefix}.mlp.down_proj.weight"] = (HIDDEN, WIDE)
    return shapes


def file_of(header: Any, rng: random.Random, size: int) -> bytes:
    """A safetensors file with this header, whatever it says, and so many bytes of data."""
    text = mutation.as_json(rng, header)
    length = len(text)
    if rng.random() < 0.05:
        length = rng.choice((0, 1, length + 1, length - 1, 2**24, 2**62, 2**64 - 1)) % 2**64
    data = rng.randbytes(size) if rng.random() < 0.1 else bytes(size)
    return length.to_bytes(8, "little") + text + data


def header_of(tensors: Shapes, dtype: str = "F32") -> tuple[dict[str, Any], int]:
    """A valid header for tensors, and the bytes of their data."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in tensors.items():
        count = DTYPE_BYTES[dtype]
        for size in shape:
            count *= size
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + count]}
        end += count
    return entries, end


class Headers:
    """One safetensors file: its header, and the scan of its values."""

    name = "safetensors"

    def prepare(self, folder: Path) -> None:
        """Make what the cases need."""
        self._path = folder / "model.safetensors"
        self._path.touch()
        shapes = dict(list(base_shapes().items())[:4])
        self._seeds = [header_of(shapes, dtype) for dtype in ("F32", "BF16", "F8_E4M3", "I64")]

    def case(self, rng: random.Random) -> None:
        """One file."""
        header, size = rng.choice(self._seeds)
        if rng.random() < 0.3:
            names = list(header)
            header = {**header, "__metadata__": mutation.mutated(rng, header["__metadata__"])}
            header[mutation.text(rng, names[-1])] = header.pop(names[-1])
        else:
            header = mutation.mutated(rng, header)
        self._path.write_bytes(file_of(header, rng, size))
        check_finite(self._path, read_header(self._path, label="model.safetensors"), label="model.safetensors")


Q, DOWN, EMBED = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj", "model.embed_tokens"
PREFIX = "base_model.model."


def _pair(module: str, rank: int, i: int, o: int) -> Shapes:
    return {f"{PREFIX}{module}.lora_A.weight": (rank, i), f"{PREFIX}{module}.lora_B.weight": (o, rank)}


LORA: dict[str, Any] = {
    "peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "down_proj", "embed_tokens"],
    "bias": "none", "task_type": "CAUSAL_LM", "base_model_name_or_path": "acme/base", "auto_mapping": None,
    "inference_mode": True,
}  # fmt: skip
ADAPTERS: tuple[tuple[dict[str, Any], Shapes], ...] = (
    (LORA, _pair(Q, 2, HIDDEN, HIDDEN) | _pair(DOWN, 2, WIDE, HIDDEN)),
    (
        LORA
        | {"rank_pattern": {"q_proj": 3, r"layers\.1\..*": 1}, "alpha_pattern": {"down_proj": 1}, "use_rslora": True},
        _pair(Q, 3, HIDDEN, HIDDEN) | _pair(DOWN, 1, WIDE, HIDDEN),
    ),
    (
        LORA | {"use_dora": True},
        _pair(Q, 2, HIDDEN, HIDDEN) | {f"{PREFIX}{Q}.lora_magnitude_vector": (HIDDEN,)},
    ),
    (LORA | {"kasa_config": {"beta": 1e-4}}, _pair(Q, 2, HIDDEN, HIDDEN) | {f"{PREFIX}{Q}.lora_diag": (2,)}),
    (
        LORA | {"modules_to_save": ["lm_head"]},
        _pair(Q, 2, HIDDEN, HIDDEN)
        | {
            f"{PREFIX}lm_head.weight": (VOCABULARY, HIDDEN),
            f"{PREFIX}{EMBED}.lora_embedding_A": (2, VOCABULARY),
            f"{PREFIX}{EMBED}.lora_embedding_B": (HIDDEN, 2),
        },
    ),
    (
        {
            "peft_type": "ADALORA",
            "init_r": 2,
            "target_modules": ["q_proj"],
            "lora_alpha": 4,
            "rank_pattern": {f"{Q}.lora_E": [True, True]},
        },
        {f"{PREFIX}{Q}.lora_A": (2, HIDDEN), f"{PREFIX}{Q}.lora_B": (HIDDEN, 2), f"{PREFIX}{Q}.lora_E": (2, 1)},
    ),
    (
        {"peft_type": "VERA", "r": 2, "target_modules": ["q_proj"], "save_projection": True, "projection_prng_key": 0},
        {
            "base_model.vera_A": (2, HIDDEN),
            "base_model.vera_B": (HIDDEN, 2),
            f"{PREFIX}{Q}.vera_lambda_b": (HIDDEN,),
            f"{PREFIX}{Q}.vera_lambda_d": (2,),
        },
    ),
    (
        {"peft_type": "IA3", "target_modules": ["q_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
        {f"{PREFIX}{Q}.ia3_l": (HIDDEN, 1), f"{PREFIX}{DOWN}.ia3_l": (1, WIDE)},
    ),
    (
        {"graftwork_type": "LOTR", "rank": 2, "scale": 1.0, "shared": {r"layers\.1\.q_proj": Q}},
        {f"{PREFIX}{Q}.lotr.mid": (2, 2), f"{PREFIX}{Q}.lotr.lhs": (2, HIDDEN), f"{PREFIX}{Q}.lotr.rhs": (HIDDEN, 2)},
    ),
    (
        {"graftwork_type": "HYDRA", "scale": 1.0},
        {
            f"{PREFIX}{Q}.adapter_par.down_proj.weight": (2, HIDDEN),
            f"{PREFIX}{Q}.adapter_par.up_proj.weight": (HIDDEN, 2),
            f"{PREFIX}{Q}.adapter_seq.down_proj.weight": (2, HIDDEN),
            f"{PREFIX}{Q}.adapter_seq.up_proj.weight": (HIDDEN, 2),
        },
    ),
    ({"graftwork_type": "S2FT"}, {f"{PREFIX}{Q}.s2ft_rows": (2, HIDDEN), f"{PREFIX}{Q}.s2ft_row_indices": (2,)}),
)
"""A configuration and the tensors of each format."""


class Adapters:
    """Adapter folders of every format, compared with a base."""

    def __init__(self, name: str, formats: slice) -> None:
        self.name = name
        self._seeds = ADAPTERS[formats]

    def prepare(self, folder: Path) -> None:
        """Make what the cases need."""
        self._folder = folder
        self._configs = [config for config, _ in ADAPTERS]
        self._base = {name: Shape(shape) for name, shape in base_shapes().items()}
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            (folder / name).touch()

    def case(self, rng: random.Random) -> None:
        """One folder."""
        config, tensors = rng.choice(self._seeds)
        header, size = header_of(tensors)
        what = rng.random()
        if what < 0.75:
            config = mutation.mutated(rng, config, self._configs)
        if what > 0.6:
            header = mutation.mutated(rng, header)
        for name, entry in header.items():
            if name.endswith("_indices") and isinstance(entry, dict):
                entry["dtype"] = "I32"
        (self._folder / "adapter_config.json").write_bytes(mutation.as_json(rng, config))
        (self._folder / "adapter_model.safetensors").write_bytes(file_of(header, rng, size))
        layout = read_adapter(self._folder)
        check_against_base(layout, self._base, adapter_name="a/b", base_name="a/c@v1", tied_head=True)
        for module in layout.parts:
            layout.config.rank_for(module)
            layout.config.saves(module)


class Checkpoints:
    """Checkpoint folders in shards, with an index."""

    name = "checkpoints"

    def prepare(self, folder: Path) -> None:
        """Make what the cases need."""
        self._folder = folder
        shapes = base_shapes()
        names = sorted(shapes)
        self._shards = [header_of({name: shapes[name] for name in names[start::2]}) for start in range(2)]
        self._files = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
        weight_map = {name: self._files[at % 2] for at, name in enumerate(names)}
        self._index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
        self._config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": HIDDEN}
        for name in (*self._files, "config.json", "model.safetensors.index.json"):
            (folder / name).touch()

    def case(self, rng: random.Random) -> None:
        """One folder."""
        what = rng.randrange(4)
        index = mutation.mutated(rng, self._index) if what in (0, 3) else self._index
        config = mutation.mutated(rng, self._config) if what in (1, 3) else self._config
        for at, (file, (header, size)) in enumerate(zip(self._files, self._shards, strict=True)):
            changed = mutation.mutated(rng, header) if what == 2 and at == rng.randrange(2) else header
            (self._folder / file).write_bytes(file_of(changed, rng, size))
        (self._folder / "config.json").write_bytes(mutation.as_json(rng, config))
        (self._folder / "model.safetensors.index.json").write_bytes(mutation.as_json(rng, index))
        read_checkpoint(self._folder)


DOCUMENTS: tuple[dict[str, Any], ...] = (
    {
        "format": "graftwork-experts-1",
        "experts": [{"name": "a", "adapter": "0" * 64, "weight": 0.5}, {"name": "b", "adapter": "1" * 64}],
        "router": {"kind": "arrow", "top_k": 1, "temperature": 0.5},
    },
    {
        "format": "graftwork-experts-1",
        "experts": [{"name": "a", "adapter": "0" * 64, "deactivate": "8-"}, {"name": "b", "adapter": "1" * 64}],
        "router": {"kind": "task-table", "tasks": {"news": [1.0, 0.0], "code": [0.5, 0.5]}},
    },
    {
        "format": "graftwork-experts-1",
        "experts": [{"name": "a"}, {"name": "b", "always": True}],
        "router": {"kind": "linear", "granularity": "token", "unit": "expert", "activation": "sigmoid"},
    },
)


class ExpertSets:
    """Documents of expert sets alone, and folders with weights of their own."""

    name = "expert sets"

    def prepare(self, folder: Path) -> None:
        """Make what the cases need."""
        self._folder = folder
        tensors: Shapes = {"router.m.weight": (1, HIDDEN), "router.m.bias": (1,)}
        for expert in "ab":
            tensors |= {f"experts.{expert}.m.lora_A": (2, HIDDEN), f"experts.{expert}.m.lora_B": (HIDDEN, 2)}
        self._header, self._size = header_of(tensors)
        for name in ("experts.json", "experts.safetensors"):
            (folder / name).touch()

    def case(self, rng: random.Random) -> None:
        """One document."""
        seed = rng.choice(DOCUMENTS)
        document = mutation.mutated(rng, seed, DOCUMENTS)
        if rng.random() < 0.5:
            parse_document(json.loads(json.dumps(document)), "the upload")
            return
        header = mutation.mutated(rng, self._header) if rng.random() < 0.5 else self._header
        if rng.random() < 0.5:
            document = DOCUMENTS[2]
        (self._folder / "experts.json").write_bytes(mutation.as_json(rng, document))
        (self._folder / "experts.safetensors").write_bytes(file_of(header, rng, self._size))
        read_experts(self._folder)
