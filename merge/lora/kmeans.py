"""K-means with k-means++ seeding, the same on every machine for the same seed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
Labels = NDArray[np.int64]


def cluster(
    points: Points, k: int, random: np.random.Generator, *, restarts: int = 10, iterations: int = 100, tol: float = 1e-4
) -> Labels:
    """The cluster of each point, 0 .. k - 1, in the order of the clusters' first points; no cluster is empty.

    points: [n, dimensions], n >= k
    tol:    the centres are at rest when the sum of their squared moves is below tol times the mean variance

    The best of several runs of Lloyd's algorithm from k-means++ seeds (Arthur and Vassilvitskii, 2007), by the sum of
    squared distances; the first of equals. k equal to n gives every point a cluster of its own.
    """
    if k == len(points):
        return np.arange(k)
    rest = tol * float(points.var(axis=0).mean())
    best: Labels | None = None
    least = np.inf
    for _ in range(restarts):
        labels, inertia = _lloyd(points, _seeds(points, k, random), iterations, rest)
        if inertia < least:
            best, least = labels, inertia
    if best is None:
        raise ValueError("the points are not finite")
    return _in_order(best)


def _seeds(points: Points, k: int, random: np.random.Generator) -> Points:
    """Each next centre is a point drawn with a probability proportional to its squared distance from those chosen."""
    chosen = [int(random.integers(len(points)))]
    nearest = _distances(points, points[chosen]).min(axis=1)
    while len(chosen) < k:
        reach = np.cumsum(nearest)
        if reach[-1] > 0:
            following = int(np.searchsorted(reach, random.random() * reach[-1], side="right"))
            following = min(following, len(points) - 1)
        else:
            following = next(index for index in range(len(points)) if index not in chosen)
        chosen.append(following)
        nearest = np.minimum(nearest, _distances(points, points[[following]])[:, 0])
    seeds: Points = points[chosen]
    return seeds


def _lloyd(points: Points, centres: Points, iterations: int, rest: float) -> tuple[Labels, float]:
    for _ in range(iterations):
        labels = _assign(points, centres)
        moved = np.stack([points[labels == cluster].mean(axis=0) for cluster in range(len(centres))])
        shift = float(((moved - centres) ** 2).sum())
        centres = moved
        if shift <= rest:
            break
    labels = _assign(points, centres)
    return labels, float(((points - centres[labels]) ** 2).sum())


def _assign(points: Points, centres: Points) -> Labels:
    """The nearest centre of each point, the first of equals; a centre without points takes the worst placed one."""
    distances = _distances(points, centres)
    labels: Labels = distances.argmin(axis=1)
    sizes = np.bincount(labels, minlength=len(centres))
    away = distances[np.arange(len(points)), labels]
    for empty in np.flatnonzero(sizes == 0):
        taken = int(np.where(sizes[labels] > 1, away, -1.0).argmax())
        sizes[labels[taken]] -= 1
        labels[taken], sizes[empty], away[taken] = empty, 1, 0.0
    return labels


def _distances(points: Points, centres: Points) -> Points:
    """Squared distances, [n, centres]."""
    squares = (points**2).sum(axis=1)[:, None] - 2 * points @ centres.T + (centres**2).sum(axis=1)
    clipped: Points = np.maximum(squares, 0.0)
    return clipped


def _in_order(labels: Labels) -> Labels:
    _, first = np.unique(labels, return_index=True)
    order = np.empty(len(first), np.int64)
    order[np.argsort(first)] = np.arange(len(first))
    ordered: Labels = order[labels]
    return ordered
