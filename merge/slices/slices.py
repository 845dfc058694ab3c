"""The part of a tensor that a method and the kernels work on at one time."""

from __future__ import annotations

from dataclasses import dataclass

from graftwork.kernels.arrays import Array

__all__ = ["GRAIN", "Array", "Slice", "slice_starts"]

GRAIN = 65_536
"""Slices begin at multiples of this many elements, so that sums by block do not depend on the slice length."""


@dataclass(frozen=True, slots=True)
class Slice:
    """Elements `offset` .. `offset + size` of a tensor of `shape`, flat: of the base, and of every model in order.

    All of them numpy arrays, or all torch tensors on one device.
    """

    tensor: str
    offset: int
    base: Array | None
    inputs: tuple[Array, ...]
    seed: int = 0
    shape: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """The number of elements."""
        return len(self.inputs[0])

    def against_base(self) -> Array:
        """The base's elements, for methods that always have one."""
        if self.base is None:
            raise ValueError(f"{self.tensor} has no base")
        return self.base


def slice_starts(numel: int, length: int) -> range:
    """The offset of each slice of a tensor of `numel` elements; `length` is a multiple of GRAIN."""
    return range(0, numel, length)
