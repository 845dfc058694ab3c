"""How a statistic is measured: by passes over slices.

A statistic is measured by a generator. Each value it yields is one pass: a function that the engine calls once for
every slice, from any thread, in any order. What it returns is the result. Counts are integers, and sums of floats are
kept by block and added in index order, so that a result depends neither on the slices nor on the threads.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from graftwork.merge.slices.slices import GRAIN, Slice

Scope = Literal["tensor", "model"]
Result = TypeVar("Result", covariant=True)


@dataclass(frozen=True, slots=True)
class Extent:
    """What a statistic is measured over: the elements of one tensor, and its shape, or of all tensors of a model.

    resident: a pass reads from memory, ours or the system's, and costs little; otherwise it may read from a disk
    step:     the slices of a tensor begin at multiples of so many elements
    """

    numel: int
    inputs: int
    shape: tuple[int, ...] = ()
    resident: bool = False
    step: int = GRAIN


@dataclass(frozen=True, slots=True)
class Pass:
    """One visit to every slice, or to the slice at `only`."""

    observe: Callable[[Slice], None]
    only: int | None = None


Measuring = Generator[Pass, None, Result]


class Statistic(Protocol[Result]):
    """Equal statistics of the same tensors have equal results."""

    @property
    def scope(self) -> Scope:
        """Whether it is measured over each tensor or over the whole model."""

    def measure(self, extent: Extent) -> Measuring[Result]:
        """The passes, then the result."""


def is_by_row(statistic: object) -> bool:
    """Whether a statistic says `by_row = True`: it is cheaper where slices are of whole rows."""
    return bool(getattr(statistic, "by_row", False))


def row_width(shape: tuple[int, ...]) -> int:
    """Elements of a row: the last dimension, so all of a vector."""
    return max(1, shape[-1]) if shape else 1
