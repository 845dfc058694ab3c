"""LoRA-LEGO: adapters taken apart into rank-one units, clustered, and put together again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from graftwork.adapters.algebra.lowrank import generator
from graftwork.adapters.variants.lora import LoraFactors
from graftwork.merge.lora.kmeans import cluster
from graftwork.merge.method import Rank, merge_method

SMALLEST_NORM = 1e-12


@merge_method("lora_lego", space="adapter", cites="https://arxiv.org/abs/2409.16167")
@dataclass(frozen=True, slots=True)
class LoraLego:
    """Cluster the rank-one units of all adapters and keep one unit, the centroid, for each cluster.

    rank:            the number of clusters and the rank of the result; by default the largest rank among the adapters
    norm:            `l2` or `linf`, the norm in which a centroid is given the mean size of its cluster's units
    output_reweight: multiply the result by sqrt(r / rank), with r the mean rank of the adapters
    seed:            of the clustering; by default the recipe's

    Per module: unit j of an adapter is the row a_j and the column b_j with the adapter's scale in b_j; zero units are
    dropped; k-means++ on the concatenated [a_j, b_j]; each centroid is resized to the mean norm of its units (parameter
    reweighting); the whole is scaled (output reweighting). With as many clusters as units and without output
    reweighting the result is lora_cat's.

    paper: sections 3.2 and 3.3; no official code was found, so the norm of the reweighting and r for adapters of
    unequal ranks are our reading. The adapters' scales are folded into b_j before the clustering.

    Use it for adapters of different tasks and ranks, where like units are to be shared and not summed.
    """

    rank_: Rank | None = None
    norm: Literal["l2", "linf"] = "l2"
    output_reweight: bool = True
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    models: ClassVar[tuple[int, int | None]] = (1, None)

    def rank(self, ranks: Sequence[int]) -> int:
        """The chosen rank, or the number of units where there are fewer."""
        return min(self.rank_ or max(ranks), sum(ranks))

    def merge(self, module: str, factors: Sequence[LoraFactors | None], seed: int) -> LoraFactors:
        """Pool, cluster, resize, put together; ranks that zero units leave over are filled with zeros."""
        present = [pair for pair in factors if pair is not None]
        inputs = present[0].a.shape[1]
        units = np.concatenate([np.concatenate([pair.a, pair.b.T], axis=1) for pair in present]).astype(np.float64)
        units = units[np.abs(units).max(axis=1) > 0]
        ranks = [pair.rank for pair in present]
        rank = self.rank(ranks)
        merged = np.zeros((rank, inputs + present[0].b.shape[0]))
        if len(units):
            k = min(rank, len(units))
            random = generator(seed if self.seed is None else self.seed, module)
            merged[:k] = self._centroids(units, cluster(units, k, random))
        if self.output_reweight:
            merged[:, inputs:] *= np.sqrt(np.mean(ranks) / rank)
        a, b = merged[:, :inputs], merged[:, inputs:].T
        return LoraFactors(np.ascontiguousarray(a, np.float32), np.ascontiguousarray(b, np.float32))

    def _centroids(self, units: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
        order = 2 if self.norm == "l2" else np.inf
        centroids = []
        for label in range(int(labels.max()) + 1):
            members = units[labels == label]
            centroid = members.mean(axis=0)
            size = np.linalg.norm(centroid, order)
            if size > SMALLEST_NORM:
                centroid = centroid * (np.linalg.norm(members, order, axis=1).mean() / size)
            centroids.append(centroid)
        return np.stack(centroids)
