"""Means and arcs on spheres, computed on dot products alone.

Whatever a spherical mean of n vectors is, it lies in their span: it is a weighted sum of them, and its weights follow
from their dot products. No vector is ever touched here.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

PARALLEL = 1e-7
"""Below this sine an angle near 0 is none."""
OPPOSITE = 1e-3
"""Below this sine, vectors at nearly 180 degrees count as opposite: which arc joins them would be left to rounding."""


def arc(products: Doubles, t: float) -> Doubles:
    """The weights of two vectors for the point at `t` of the arc between them: [..., 2], from products [..., 2, 2].

    sin((1 - t) theta) / sin(theta) and sin(t theta) / sin(theta), with theta the angle between the vectors; 1 - t and t
    where they are parallel or opposite, or one of them is zero.
    """
    lengths = np.sqrt(products[..., 0, 0]) * np.sqrt(products[..., 1, 1])
    cosine = np.clip(products[..., 0, 1] / np.where(lengths > 0, lengths, 1), -1, 1)
    angle = np.arccos(cosine)
    sine = np.sin(angle)
    straight = (lengths == 0) | (sine <= np.where(cosine < 0, OPPOSITE, PARALLEL))
    divisor = np.where(straight, 1, sine)
    first = np.where(straight, 1 - t, np.sin((1 - t) * angle) / divisor)
    second = np.where(straight, t, np.sin(t * angle) / divisor)
    return np.stack([first, second], axis=-1)


def directions(products: Doubles) -> tuple[Doubles, Doubles]:
    """The norms of n vectors, [n], and the dot products of their directions, [n, n]; 0 for a zero vector."""
    norms: Doubles = np.sqrt(np.diagonal(products))
    inverse = np.where(norms > 0, 1 / np.where(norms > 0, norms, 1), 0)
    return norms, products * inverse[:, None] * inverse[None, :]


def mean_length(cosines: Doubles, weights: Doubles) -> float:
    """The length of the weighted sum of directions."""
    return math.sqrt(max(float(weights @ cosines @ weights), 0.0))


def barycentre(cosines: Doubles, weights: Doubles, start: Doubles, tolerance: float, iterations: int) -> Doubles:
    """The weighted mean of directions on their sphere (Karcher, Frechet): the weights that give it as a sum of them.

    cosines:    [n, n], dot products of the directions
    weights:    [n], with sum 1
    start:      [n], the point to begin at, as a sum of the directions
    tolerance:  of the length of the last step, in radians
    iterations: at most

    Each step goes to the mean of the directions as they are seen from the present point: sum w_i log(u_i), with
    log(u) = theta / sin(theta) * (u - cos(theta) * point), then along that vector on the sphere. A direction opposite
    to the present point is seen nowhere, and has no part in that step.
    """
    point = start / mean_length(cosines, start)
    for _ in range(iterations):
        seen = np.clip(cosines @ point, -1, 1)
        angles = np.arccos(seen)
        sines = np.sin(angles)
        stretch = np.where(sines > PARALLEL, angles / np.where(sines > PARALLEL, sines, 1), 1.0)
        stretch = np.where((seen < 0) & (sines <= OPPOSITE), 0.0, stretch)
        pull = weights * stretch
        step = pull - (pull @ seen) * point
        length = mean_length(cosines, step)
        if length < max(tolerance, PARALLEL):
            break
        point = np.cos(length) * point + np.sin(length) / length * step
        point = point / mean_length(cosines, point)
    return np.asarray(point, np.float64)
