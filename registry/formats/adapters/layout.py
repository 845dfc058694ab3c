"""An adapter folder that was read: every tensor has a module and a role in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from graftwork.errors import InvalidAdapter
from graftwork.registry.formats.adapters.config import LoraConfig
from graftwork.registry.formats.adapters.kinds import EMBEDDING_KINDS, FOLDABLE, LOW_RANK_ON_A_BASE, Kind
from graftwork.registry.formats.safetensors import Header, TensorInfo


@dataclass(frozen=True, slots=True)
class Part:
    """What an adapter has for one module of its base."""

    module: str
    kind: Kind
    tensors: Mapping[str, TensorInfo]
    """By role: what follows the module in the tensor's name."""
    own: Mapping[str, TensorInfo]
    """Parameters of the base's module that the adapter replaces, by role: `weight`, `base_layer.bias` ..."""
    sizes: Mapping[str, int]
    """What the tensors say: i in_features (of an embedding its vocabulary), o out_features, r the rank, ..."""
    scale: float

    @property
    def rank_rows(self) -> int:
        """How many units its low-rank change has at run time, at most."""
        if self.kind is Kind.KASA:
            return 2 * self.sizes["r"]
        if self.kind is Kind.HYDRA:
            return self.sizes.get("p", 0) + self.sizes.get("s", 0)
        return 0 if self.kind in EMBEDDING_KINDS else self.sizes.get("r", 0)


@dataclass(frozen=True, slots=True)
class LoraModule:
    """One adapted linear layer: `a` [rank, in_features] and `b` [out_features, rank] are names of tensors."""

    module: str
    a: str
    b: str
    rank: int
    in_features: int
    out_features: int
    scale: float


@dataclass(frozen=True, slots=True)
class AdapterLayout:
    """An adapter folder whose every tensor is accounted for; `parts` is keyed by the base's module path."""

    root: Path
    files: tuple[str, ...]
    config: LoraConfig
    parts: Mapping[str, Part]
    shared: Mapping[str, TensorInfo]
    """Tensors of all modules together (VeRA's projections), by name."""
    header: Header
    foldable: Mapping[str, LoraModule]
    """The parts that are products of two factors, whatever the format."""
    unfoldable: str | None
    """Why it is more than that; None where it is not."""

    @property
    def beyond_low_rank(self) -> Part | None:
        """A part that is no low-rank change of a linear layer on any base; None where there is none."""
        low_rank = (*FOLDABLE, *LOW_RANK_ON_A_BASE, Kind.REPLACED)  # what is replaced may be the base's own
        return next((part for part in self.parts.values() if part.kind not in low_rank), None)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of its parts, each once."""
        replaced = [Kind.REPLACED for part in self.parts.values() if part.own]
        return tuple(dict.fromkeys([*(part.kind for part in self.parts.values()), *replaced]))

    @property
    def ranks(self) -> Mapping[str, int]:
        """Rank rows that each module needs at run time, at most; modules that need none are not in it."""
        return {name: part.rank_rows for name, part in self.parts.items() if part.rank_rows}

    @property
    def modules(self) -> Mapping[str, LoraModule]:
        """Every module as a product of two factors, which can be merged with others.

        Raises InvalidAdapter naming a tensor that is not a part of such a product.
        """
        if self.unfoldable is not None:
            raise InvalidAdapter(path=str(self.root), reason=self.unfoldable)
        return self.foldable
