"""Git Re-Basin's weight matching: the order of one model's units in which its weights lie closest to another's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.adapters.algebra.lowrank import generator
from graftwork.kernels.dtypes import numpy_dtype
from graftwork.merge.models.permute.permutation import Group, Order, arrange, connected, unit_rows
from graftwork.merge.models.readers import Reader

Matrix = NDArray[np.float32]
SMALLEST_GAIN = 1e-12


@dataclass(frozen=True, slots=True)
class Matched:
    """Which unit of the other model is at each place of every axis, and how alike the units of each group are."""

    orders: Mapping[tuple[str, int], Order]
    """By tensor and axis; an axis that is not here is as it was."""
    alike: Mapping[str, NDArray[np.float64]]
    """For the groups that may grow: the dot product of the weights of each unit and its counterpart."""


@dataclass(slots=True)
class Matching:
    """The units of `other` matched with those of `reference`, when they are first asked for.

    Ainsworth, Hayase and Srinivasa (arXiv:2209.04836), algorithm 1: for one group after another, in an order drawn anew
    for each sweep, C[i, j] = sum over the members of <unit i of the reference, unit j of the other as it is now>; the
    assignment that maximises the sum of C is taken where it is a gain; until a sweep gains nothing. Groups without
    common tensors are matched by themselves.
    """

    reference: Reader
    other: Reader
    groups: tuple[Group, ...]
    sweeps: int
    seed: int
    _parts: Mapping[str, tuple[Group, ...]] = field(default_factory=dict)
    _found: dict[int, Matched] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def __post_init__(self) -> None:
        parts = connected(self.groups)
        self._parts = {member.tensor: part for part in parts for group in part for member in group.members}

    @property
    def working_bytes(self) -> int:
        """The most memory that matching one part takes."""
        return max((self._bytes(part) for part in connected(self.groups)), default=0)

    def for_tensor(self, tensor: str) -> Matched | None:
        """The result for the part that a tensor is in; None for a tensor without units. The first call computes."""
        part = self._parts.get(tensor)
        if part is None:
            return None
        with self._lock:
            if id(part) not in self._found:
                self._found[id(part)] = self._match(part)
            return self._found[id(part)]

    def _match(self, part: tuple[Group, ...]) -> Matched:
        names = list(dict.fromkeys(member.tensor for group in part for member in group.members))
        fixed = {name: _whole(self.reference, name) for name in names}
        moved = {name: _whole(self.other, name) for name in names}
        orders: dict[tuple[str, int], Order] = {
            (member.tensor, member.axis): np.arange(fixed[member.tensor].shape[member.axis])
            for group in part
            for member in group.members
        }
        for sweep in range(self.sweeps):
            gained = False
            for place in generator(self.seed, f"{part[0].name} sweep {sweep}").permutation(len(part)):
                group = part[place]
                products = _products(group, fixed, moved)
                best = _assignment(products)
                gain = products[np.arange(group.units), best].sum() - np.trace(products)
                if gain <= SMALLEST_GAIN:
                    continue
                gained = True
                for member in group.members:
                    key = member.tensor, member.axis
                    moved[member.tensor] = arrange(moved[member.tensor], member, best)
                    orders[key] = arrange(orders[key], member, best, axis=0)
            if not gained:
                break
        alike = {group.name: np.diagonal(_products(group, fixed, moved)).copy() for group in part if group.grows}
        return Matched(orders, alike)

    def _bytes(self, part: tuple[Group, ...]) -> int:
        names = {member.tensor for group in part for member in group.members}
        elements = [self.reference.layout.tensors[name].info.numel for name in names]
        units = max(group.units for group in part)
        return 8 * sum(elements) + 12 * max(elements) + 24 * units**2


def _products(group: Group, fixed: Mapping[str, Matrix], moved: Mapping[str, Matrix]) -> NDArray[np.float64]:
    """C of a group, [units, units]."""
    total = np.zeros((group.units, group.units))
    for member in group.members:
        ours, theirs = (unit_rows(side[member.tensor], member, group.units) for side in (fixed, moved))
        total += ours @ theirs.T
    return total


def _assignment(products: NDArray[np.float64]) -> Order:
    """For each row the column of its own that makes the largest sum."""
    from scipy.optimize import linear_sum_assignment

    columns: Order = linear_sum_assignment(products, maximize=True)[1]
    return columns


def _whole(reader: Reader, name: str) -> Matrix:
    """One tensor in float32."""
    located = reader.layout.tensors[name]
    stored: NDArray[Any] = np.empty(located.info.numel, numpy_dtype(located.info.dtype))
    reader.read(located, 0, stored.view(np.uint8).data)
    return stored.astype(np.float32).reshape(located.info.shape)
