"""Units of a network that can change places without changing what it computes, and the weights that hold them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Order = NDArray[np.int64]
"""Which old place each new place takes from."""


@dataclass(frozen=True, slots=True)
class Member:
    """One axis of one tensor that holds the units of a group: `block` entries each, from `offset` on.

    consumes: whether the tensor reads from the units, and does not make them
    """

    tensor: str
    axis: int
    block: int = 1
    offset: int = 0
    consumes: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """Units that must change places together in all members."""

    name: str
    units: int
    members: tuple[Member, ...]
    grows: bool = False
    """Whether there may be any number of units: neurons of an MLP, and not heads."""


def unit_rows(values: NDArray[Any], member: Member, units: int) -> NDArray[Any]:
    """The weights of each unit in one member, [units, everything else]."""
    moved = np.moveaxis(values, member.axis, 0)
    return moved[member.offset : member.offset + units * member.block].reshape(units, -1)


def arrange(values: NDArray[Any], member: Member, order: Order, axis: int | None = None) -> NDArray[Any]:
    """`values` with the units of `member` in a new order, along the member's axis or along `axis`."""
    along = member.axis if axis is None else axis
    places = np.arange(values.shape[along])
    end = member.offset + len(order) * member.block
    places[member.offset : end] = places[member.offset : end].reshape(len(order), member.block)[order].reshape(-1)
    return np.take(values, places, axis=along)


def connected(groups: tuple[Group, ...]) -> tuple[tuple[Group, ...], ...]:
    """The groups that share tensors, directly or through others, together; in the order of their first ones."""
    owner: dict[str, int] = {}
    parts: dict[int, list[Group]] = {}
    for number, group in enumerate(groups):
        touched = sorted({owner[member.tensor] for member in group.members if member.tensor in owner})
        parts[number] = [found for place in touched for found in parts.pop(place)] + [group]
        for found in parts[number]:
            owner.update(dict.fromkeys((member.tensor for member in found.members), number))
    return tuple(tuple(part) for part in parts.values())
