"""The formats of adapters: what a module's tensors are called, and their shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

PREFIX = "base_model.model."


class Format(StrEnum):
    """What an `adapter_config.json` says that it is: PEFT's `peft_type`, or `graftwork_type` where PEFT has none."""

    LORA = "LORA"
    ADALORA = "ADALORA"
    VERA = "VERA"
    IA3 = "IA3"
    LOTR = "LOTR"
    HYDRA = "HYDRA"
    S2FT = "S2FT"


class Kind(StrEnum):
    """How the tensors of one module change it."""

    LORA = "LoRA"
    DORA = "DoRA"
    KASA = "KaSA"
    NLORA = "NLoRA"
    EMBEDDING = "LoRA on an embedding"
    DORA_EMBEDDING = "DoRA on an embedding"
    ADALORA = "AdaLoRA"
    VERA = "VeRA"
    IA3_OUTPUT = "IA3"
    IA3_INPUT = "IA3 on a feed-forward layer"
    LOTR = "LoTR"
    HYDRA = "Hydra"
    S2FT = "S2FT"
    REPLACED = "a trained weight or bias"


PUBLISHED = (Format.LOTR, Format.HYDRA, Format.S2FT)
"""Formats that PEFT does not know: docs/adapter-formats.md says how their folders look."""
EMBEDDING_KINDS = (Kind.EMBEDDING, Kind.DORA_EMBEDDING)
"""Kinds whose factors are for rows of a table."""
FOLDABLE = (Kind.LORA, Kind.ADALORA, Kind.NLORA, Kind.LOTR)
"""Kinds whose change is a product of two factors that are known without the base."""
LOW_RANK_ON_A_BASE = (Kind.VERA, Kind.KASA, Kind.HYDRA, Kind.S2FT)
"""Kinds whose change is such a product on a given base."""
ACCEPTED = (
    "LoRA, rsLoRA, DoRA, KaSA and NLoRA (peft_type LORA) on linear layers and embeddings, ADALORA, VERA, IA3, "
    "modules_to_save and biases, and the graftwork_type LOTR, HYDRA or S2FT"
)

Dims = tuple[str, ...]
"""Names of sizes: i is in_features (an embedding's vocabulary), o is out_features, a digit is itself."""


@dataclass(frozen=True, slots=True)
class Grammar:
    """The tensors of one module in one kind, by what follows the module's name."""

    required: Mapping[str, Dims]
    optional: Mapping[str, Dims] = field(default_factory=dict)
    all: Mapping[str, Dims] = field(init=False)
    """Required and optional."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "all", {**self.required, **self.optional})


_PAIR: Mapping[str, Dims] = {"lora_A.weight": ("r", "i"), "lora_B.weight": ("o", "r")}
_EMBEDDING: Mapping[str, Dims] = {"lora_embedding_A": ("r", "i"), "lora_embedding_B": ("o", "r")}
_MAGNITUDE: Mapping[str, Dims] = {"lora_magnitude_vector": ("o",)}

GRAMMARS: Mapping[Kind, Grammar] = {
    Kind.LORA: Grammar(_PAIR, {"lora_B.bias": ("o",)}),
    Kind.DORA: Grammar({**_PAIR, **_MAGNITUDE}),
    Kind.KASA: Grammar({**_PAIR, "lora_diag": ("r",)}),
    Kind.NLORA: Grammar({**_PAIR, "lora_N.weight": ("r", "r")}),
    Kind.EMBEDDING: Grammar(_EMBEDDING),
    Kind.DORA_EMBEDDING: Grammar({**_EMBEDDING, **_MAGNITUDE}),
    Kind.ADALORA: Grammar({"lora_A": ("r", "i"), "lora_B": ("o", "r"), "lora_E": ("r", "1")}),
    Kind.VERA: Grammar({"vera_lambda_b": ("o",), "vera_lambda_d": ("r",)}),
    Kind.IA3_OUTPUT: Grammar({"ia3_l": ("o", "1")}),
    Kind.IA3_INPUT: Grammar({"ia3_l": ("1", "i")}),
    Kind.LOTR: Grammar({"lotr.mid": ("r", "r"), "lotr.lhs": ("r", "o"), "lotr.rhs": ("i", "r")}),
    Kind.HYDRA: Grammar(
        {},
        {
            "adapter_par.down_proj.weight": ("p", "i"),
            "adapter_par.down_proj.bias": ("p",),
            "adapter_par.up_proj.weight": ("o", "p"),
            "adapter_par.up_proj.bias": ("o",),
            "adapter_par.scale": ("1",),
            "adapter_seq.down_proj.weight": ("s", "o"),
            "adapter_seq.down_proj.bias": ("s",),
            "adapter_seq.up_proj.weight": ("o", "s"),
            "adapter_seq.up_proj.bias": ("o",),
            "adapter_seq.scale": ("1",),
        },
    ),
    Kind.S2FT: Grammar(
        {},
        {
            "s2ft_row_indices": ("n",),
            "s2ft_rows": ("n", "i"),
            "s2ft_column_indices": ("m",),
            "s2ft_columns": ("o", "m"),
        },
    ),
}
TOGETHER = (
    ("adapter_par.down_proj.weight", "adapter_par.up_proj.weight"),
    ("adapter_seq.down_proj.weight", "adapter_seq.up_proj.weight"),
    ("s2ft_row_indices", "s2ft_rows"),
    ("s2ft_column_indices", "s2ft_columns"),
)
"""Optional tensors of which one needs the other."""
INDICES = {"s2ft_row_indices": "o", "s2ft_column_indices": "i"}
"""Tensors of whole numbers, and the size they index."""

KINDS: Mapping[Format, tuple[Kind, ...]] = {
    Format.LORA: (Kind.DORA, Kind.KASA, Kind.NLORA, Kind.LORA, Kind.DORA_EMBEDDING, Kind.EMBEDDING),
    Format.ADALORA: (Kind.ADALORA,),
    Format.VERA: (Kind.VERA,),
    Format.IA3: (Kind.IA3_OUTPUT, Kind.IA3_INPUT),
    Format.LOTR: (Kind.LOTR,),
    Format.HYDRA: (Kind.HYDRA,),
    Format.S2FT: (Kind.S2FT,),
}
"""The kinds of each format; one that has all tensors of another and more comes first."""
SHARED: Mapping[Format, Mapping[str, Dims]] = {
    Format.VERA: {"base_model.vera_A": ("r", "I"), "base_model.vera_B": ("O", "r")}
}
"""Tensors that all modules share, by their whole names."""
OWN = ("base_layer.weight", "base_layer.bias", "weight", "bias")
"""A parameter of the base's module itself, trained with the adapter: in every format."""
