"""What an adapter's weights look like: spectrum, norm and effective rank of every module, in rank space only."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graftwork.adapters.variants.dora import Dora, DoraEmbedding
from graftwork.adapters.variants.embedding import Embedding
from graftwork.adapters.variants.factors import LoraFactors
from graftwork.adapters.variants.hydra import Hydra
from graftwork.adapters.variants.kasa import Kasa
from graftwork.adapters.variants.variant import Variant
from graftwork.registry.formats.peft import AdapterLayout

LAYER = re.compile(r"(?:^|\.)(\d+)(?:\.|$)")
Shapes = Mapping[str, tuple[int, ...]]
"""Shapes of the base's weights [out, in], by module."""


@dataclass(frozen=True, slots=True)
class ModuleReport:
    """One module. Without a low-rank change that is known from the adapter alone, the singular values are none."""

    module: str
    kind: str
    tensors: int
    parameters: int
    rank: int | None
    """Units that the low-rank change has; None where there is none to look at."""
    singular_values: tuple[float, ...]
    """Of the change B A with its scale, largest first. Of DoRA: of its direction's change, without the magnitude."""

    @property
    def is_measured(self) -> bool:
        """Whether its change is known; the norms of an adapter are of those modules alone."""
        return self.rank is not None

    @property
    def layer(self) -> int | None:
        """The number in the module's path; None outside of the layers."""
        found = LAYER.search(self.module)
        return int(found[1]) if found else None

    @property
    def norm(self) -> float:
        """The Frobenius norm of the change."""
        return float(np.linalg.norm(self.singular_values))

    @property
    def effective_rank(self) -> float:
        """How many directions the change really has: exp of the entropy of the singular values over their sum.

        Roy and Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007. 0 for no change.
        """
        values = np.asarray(self.singular_values)
        if not values.any():
            return 0.0
        shares = values[values > 0] / values.sum()
        return float(np.exp(-(shares * np.log(shares)).sum()))

    def energy(self, rank: int) -> float:
        """The share of the squared norm that the best change of this rank keeps (Eckart-Young); 1 for no change."""
        squares = np.square(self.singular_values)
        total = float(squares.sum())
        return float(squares[:rank].sum()) / total if total else 1.0


@dataclass(frozen=True, slots=True)
class AdapterReport:
    """A whole adapter, in the order of its file."""

    kinds: tuple[str, ...]
    modules: tuple[ModuleReport, ...]

    @property
    def rank(self) -> int:
        """The largest rank."""
        return max((module.rank or 0 for module in self.modules), default=0)

    @property
    def unmeasured(self) -> tuple[ModuleReport, ...]:
        """The modules that its norm leaves out."""
        return tuple(module for module in self.modules if not module.is_measured)

    @property
    def parameters(self) -> int:
        """Elements of all tensors of modules."""
        return sum(module.parameters for module in self.modules)

    @property
    def norm(self) -> float:
        """The Frobenius norm of all changes together."""
        return float(np.sqrt(sum(module.norm**2 for module in self.modules)))

    @property
    def layers(self) -> Mapping[int | None, tuple[ModuleReport, ...]]:
        """The modules of each layer, and of none; layers in their order."""
        numbers = sorted({module.layer for module in self.modules}, key=lambda layer: (layer is None, layer or 0))
        return {layer: tuple(module for module in self.modules if module.layer == layer) for layer in numbers}

    def energy(self, rank: int) -> float:
        """The share of the squared norm of all changes that is kept when every module is cut to this rank."""
        total = sum(module.norm**2 for module in self.modules)
        return sum(module.energy(rank) * module.norm**2 for module in self.modules) / total if total else 1.0


def inspect(layout: AdapterLayout, shapes: Shapes | None = None) -> AdapterReport:
    """Read an adapter and measure it.

    shapes: of the base, without which VeRA and S2FT have no known change
    Raises NonFiniteTensor.
    """
    modules = []
    variant = Variant(layout)
    for name, part in layout.parts.items():
        factors = low_rank(variant, name, shapes)
        infos = [*part.tensors.values(), *part.own.values()]
        values = () if factors is None else tuple(float(value) for value in spectrum(factors))
        kind = part.kind if part.tensors else f"trained {' and '.join(role.rpartition('.')[2] for role in part.own)}"
        rank = None if factors is None else factors.rank
        modules.append(ModuleReport(name, str(kind), len(infos), sum(info.numel for info in infos), rank, values))
    return AdapterReport(tuple(str(kind) for kind in layout.kinds), tuple(modules))


def spectrum(factors: LoraFactors) -> NDArray[np.float64]:
    """The singular values of b @ a, largest first: those of the core between the QR factors of both, [rank]."""
    _, upper = np.linalg.qr(factors.b.astype(np.float64))
    _, lower = np.linalg.qr(factors.a.T.astype(np.float64))
    values: NDArray[np.float64] = np.linalg.svd(upper @ lower.T, compute_uv=False)
    return values


def low_rank(variant: Variant, module: str, shapes: Shapes | None) -> LoraFactors | None:
    """The low-rank change that a module's tensors hold, as far as it is known without the base's weights.

    Of KaSA and DoRA the trained factors, of Hydra the parallel branch.
    """
    found = variant.module(module)
    if isinstance(found, Dora | DoraEmbedding | Embedding):
        return found.pair
    if isinstance(found, Kasa):
        return found.trained
    if isinstance(found, Hydra):
        side = found.parallel
        return None if side is None else LoraFactors(side.down, side.up * np.float32(side.scale))
    shape = None if shapes is None else shapes.get(module)
    empty = None if shape is None else np.broadcast_to(np.zeros(1, np.float32), shape)
    return None if found is None else found.factors(empty)


def shapes_of(layout: AdapterLayout, tensors: Mapping[str, tuple[int, ...]]) -> Shapes:
    """The shapes [out, in] of the modules that an adapter changes, from those of its base's tensors by name."""
    turn = -1 if layout.config.fan_in_fan_out else 1
    names = {name: f"{name}.weight" for name in layout.parts}
    return {name: tensors[weight][::turn] for name, weight in names.items() if weight in tensors}
