"""The statistic of Model Breadcrumbs: a band of magnitudes between the largest and the smallest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from graftwork.kernels.sparse_combine import LARGEST, Mask
from graftwork.kernels.ties_combine import KEEP_EQUAL
from graftwork.merge.statistics.passes import Extent, Measuring, Scope
from graftwork.merge.statistics.ranks import Selection, cut_equals, settle

Edge = tuple[int, int]
"""A magnitude as float32 bits, and the flat index before which its equals stand above the edge."""
EVERYTHING: Edge = 0, KEEP_EQUAL
NOTHING: Edge = LARGEST, 0


@dataclass(frozen=True, slots=True)
class Band:
    """For each input the masks that keep what stands above its floor and not above its ceiling."""

    floors: tuple[Edge, ...]
    ceilings: tuple[Edge, ...]

    def masks(self) -> list[Mask]:
        """One mask an input."""
        return [Mask(*floor, *ceiling) for floor, ceiling in zip(self.floors, self.ceilings, strict=True)]


@dataclass(frozen=True, slots=True)
class Outliers:
    """The cuts that drop the largest `int(gamma * n)` of an input's n entries and keep the next `int(density * n)`.

    overlap: what gives way where that is more than there are: `density` (the largest are always dropped) or `gamma`
             (mergekit: fewer of the largest are dropped, none where density is 1)

    Equal magnitudes are ordered by index, the lowest first among the largest.
    """

    density: tuple[float, ...]
    gamma: tuple[float, ...]
    overlap: Literal["density", "gamma"] = "density"
    scope: Scope = "tensor"

    def measure(self, extent: Extent) -> Measuring[Band]:
        """The passes that settle both edges, and those that find where equals are divided."""
        edges = {
            (position, end): Selection(rank)
            for position in range(len(self.density))
            for end, rank in enumerate(self._ranks(position, extent.numel))
            if 0 < rank < extent.numel
        }
        inputs = {place: place[0] for place in edges}
        yield from settle(edges, inputs, extent)
        found = {place: (selection.bits, KEEP_EQUAL) for place, selection in edges.items()}
        for place, cutoff in (yield from cut_equals(edges, inputs)).items():
            found[place] = edges[place].bits, cutoff
        sides = [
            tuple(
                found.get((position, end), EVERYTHING if self._ranks(position, extent.numel)[end] > 0 else NOTHING)
                for position in range(len(self.density))
            )
            for end in range(2)
        ]
        return Band(floors=sides[1], ceilings=sides[0])

    def _ranks(self, position: int, numel: int) -> tuple[int, int]:
        """How many of the largest are dropped, and how many are dropped or kept."""
        density, gamma = self.density[position], self.gamma[position]
        dropped, kept = int(gamma * numel), int(density * numel)
        if self.overlap == "density":
            return dropped, min(dropped + max(kept, 1 if density else 0), numel)
        dropped = min(dropped, numel - kept)
        return dropped, dropped + kept
