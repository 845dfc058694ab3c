"""What an adapter does to each module of its base at run time: the form that every format is lowered to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from graftwork.kernels.lora_fill import PoolRows


@dataclass(frozen=True, slots=True)
class Factors:
    """One module's low-rank change: y += (x @ a.T) @ b."""

    a: Tensor
    """[rank, in]"""
    b: Tensor
    """[rank, out]: the transposed B with the adapter's scale folded in."""

    @property
    def rank(self) -> int:
        """Number of units."""
        return int(self.a.shape[0])


class FactorRows(NamedTuple):
    """Where one module's factors are to be written."""

    a: PoolRows
    b: PoolRows


@dataclass(frozen=True, slots=True)
class EmbeddingFactors:
    """An embedding's low-rank change: y[id] += rows[id] @ b."""

    rows: Tensor
    """[vocabulary, rank]"""
    b: Tensor
    """[rank, dim], with the adapter's scale folded in."""


@dataclass(frozen=True, slots=True)
class Lines:
    """A change of a few whole rows or columns of a weight [out, in]; the rest of it is zero (S2FT)."""

    indices: Tensor
    """[n] int64: output rows or input columns, ascending and without repetition."""
    block: Tensor
    """[n, in] of rows, [out, n] of columns."""


@dataclass(frozen=True, slots=True)
class Change:
    """One module's change, in the engine's dtype; its parts apply together, in this order.

    x = input_scale * x                                       before the layer
    y = (weight or the module's own) x + rows, columns, low_rank or embedding of x
    y = scale * y + (bias or the module's own)                the output without the bias is scaled
    """

    low_rank: Factors | None = None
    """Computed by the LoRA kernels, the only part that many adapters share a call for."""
    scale: Tensor | None = None
    """[out]: DoRA's magnitude over the norm, IA3's output scale."""
    bias: Tensor | None = None
    """[out]: the bias that replaces the module's own (or is one where it had none)."""
    scales_bias: bool = False
    """Whether `scale` is of the module's whole output, its bias too (IA3), and not of the output without it (DoRA)."""
    input_scale: Tensor | None = None
    """[in]: IA3 on a feed-forward layer."""
    weight: Tensor | None = None
    """The weight that replaces the module's own: [out, in] of a linear layer (also of a Conv1D), [vocabulary, dim] of
    an embedding, [dim] of a norm."""
    rows: Lines | None = None
    columns: Lines | None = None
    embedding: EmbeddingFactors | None = None

    @property
    def is_plain(self) -> bool:
        """Whether it is low rank and nothing else."""
        return all(value is None for _, value in self._parts())

    @property
    def is_empty(self) -> bool:
        """Whether it changes nothing."""
        return self.low_rank is None and self.is_plain

    @property
    def form_bytes(self) -> int:
        """Bytes of everything but `low_rank`, which goes into the rank rows."""
        return sum(tensor.nbytes for _, part in self._parts() for tensor in _tensors(part))

    def to(self, device: torch.device) -> Change:
        """The same change with its tensors on `device`."""
        return replace(
            self, **{name: _to(part, device) for name, part in self._parts()}, low_rank=_to(self.low_rank, device)
        )

    def _parts(self) -> Iterator[tuple[str, object]]:
        for part in fields(self):
            if part.name not in ("low_rank", "scales_bias"):
                yield part.name, getattr(self, part.name)


class Gate(Protocol):
    """What multiplies the low-rank units of one module for each row: y += (gate(x) * (x @ a.T)) @ b."""

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""

    def __call__(self, x: Tensor) -> Tensor:
        """From the module's inputs [rows, in] to a factor for each of its units, [rows, rank] float32."""


@dataclass(frozen=True, slots=True)
class Lowered:
    """A whole adapter, ready for an engine."""

    changes: Mapping[str, Change]
    """By the path of the module in the base."""
    gates: Mapping[str, Gate] = field(default_factory=dict)
    """What multiplies the low-rank units of a module, row by row; a module without one has units of weight 1."""

    @property
    def low_rank(self) -> Mapping[str, Factors]:
        """The factors of the modules that have a low-rank change."""
        return {name: change.low_rank for name, change in self.changes.items() if change.low_rank is not None}

    @property
    def shapes(self) -> Mapping[str, tuple[int, int]]:
        """(in, out) of the modules with a low-rank change."""
        return {name: (factors.a.shape[1], factors.b.shape[1]) for name, factors in self.low_rank.items()}

    @property
    def ranks(self) -> Mapping[str, int]:
        """The rank of every module that has a low-rank change."""
        return {name: factors.rank for name, factors in self.low_rank.items()}

    @property
    def rank(self) -> int:
        """The largest rank: how many rank rows it needs. 0 for an adapter without any low-rank change."""
        return max(self.ranks.values(), default=0)

    @property
    def is_plain(self) -> bool:
        """Whether every change is low rank and nothing else, so that no module needs a form or a gate."""
        return not self.gates and all(change.is_plain for change in self.changes.values())

    @property
    def device_bytes(self) -> int:
        """Bytes that it takes on the device beside its rank rows."""
        forms = sum(change.form_bytes for change in self.changes.values())
        return forms + sum(gate.nbytes for gate in self.gates.values())

    @property
    def host_bytes(self) -> int:
        """Bytes of all its tensors."""
        return self.device_bytes + sum(factors.a.nbytes + factors.b.nbytes for factors in self.low_rank.values())

    def renamed(self, name_of: Callable[[str], str | None]) -> Lowered:
        """With its modules under other names; without those that have none."""
        changes = {name_of(name): change for name, change in self.changes.items()}
        gates = {name_of(name): gate for name, gate in self.gates.items()}
        return Lowered(
            {name: change for name, change in changes.items() if name is not None},
            {name: gate for name, gate in gates.items() if name is not None},
        )

    def write(self, rows: Mapping[str, FactorRows]) -> None:
        """Write the factors into `rows`."""
        values = [side for factors in self.low_rank.values() for side in (factors.a, factors.b)]
        if values:  # one call, so that it takes the interpreter from steps once
            torch._foreach_copy_([side.tensor for name in self.low_rank for side in rows[name]], values)


class BaseWeights(Protocol):
    """The parameters of the model that an adapter is lowered for.

    `module` is a path as in the base's `named_modules`. All raise KeyError for a module that is not there.
    `graftwork.adapters.weights.ModelWeights` is one.
    """

    def module(self, module: str) -> nn.Module:
        """The module itself, which decides how a replaced weight computes."""

    def tied(self, module: str) -> tuple[str, ...]:
        """The other modules whose weight is the very same parameter: an output head beside its embedding."""

    def weight(self, module: str) -> Tensor:
        """[out, in] of a linear layer (also of a Conv1D: transposed), [vocabulary, dim], or [dim] of a norm."""

    def bias(self, module: str) -> Tensor | None:
        """[out]; None for a module without a bias."""

    def takes_any_width(self, module: str) -> bool:
        """Whether a replaced module may have another number of outputs: a classification head, labels of its own."""


def _tensors(part: Any) -> list[Tensor]:
    if part is None or isinstance(part, Tensor):
        return [] if part is None else [part]
    return [getattr(part, tensor.name) for tensor in fields(part)]


def _to(part: Any, device: torch.device) -> Any:
    if part is None or isinstance(part, Tensor):
        return None if part is None else part.to(device)
    return replace(part, **{tensor.name: getattr(part, tensor.name).to(device) for tensor in fields(part)})
