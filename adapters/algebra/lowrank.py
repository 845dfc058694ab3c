"""The low-rank change nearest to a matrix: exact for small matrices, randomised for large ones."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.adapters.variants.lora import LoraFactors

Matrix = NDArray[Any]

EXACT_SIDE = 1024
"""Up to this many rows or columns, whichever are fewer, every singular value is computed."""
EXACT_ELEMENTS = 2**22
OVERSAMPLING = 16
POWER_ITERATIONS = 4


@dataclass(frozen=True, slots=True)
class Approximation:
    """A change of low rank, and the share of the matrix's squared Frobenius norm that it keeps."""

    factors: LoraFactors
    energy: float


def nearest(matrix: Matrix, rank: int, *, seed: int, name: str) -> Approximation:
    """The change of rank at most `rank` that is nearest to `matrix` [out, in] in the Frobenius norm (Eckart-Young).

    Small matrices are decomposed in float64. Large ones by randomised subspace iteration (Halko, Martinsson and Tropp,
    2011, algorithms 4.4 and 5.1): `rank` + 16 Gaussian directions drawn from (seed, name), four power iterations with
    an orthonormalisation after every product; products in float32, everything of `rank` columns in float64. A rank
    that the matrix cannot exceed needs no decomposition and keeps every bit of a float32 matrix.
    The singular values go to b and the largest entry of each row of a is positive, as in `algebra.svd`.
    """
    total = _squares(matrix)
    if rank >= min(matrix.shape):
        return Approximation(_whole(matrix), 1.0)
    if total == 0:
        out, width = matrix.shape
        return Approximation(LoraFactors(np.zeros((rank, width), np.float32), np.zeros((out, rank), np.float32)), 1.0)
    u, s, vt = _exact(matrix) if is_exact(matrix.shape, rank) else _randomised(matrix, rank, generator(seed, name))
    return Approximation(signed(u[:, :rank] * s[:rank], vt[:rank]), min(1.0, float((s[:rank] ** 2).sum()) / total))


def is_exact(shape: tuple[int, ...], rank: int) -> bool:
    """Whether a matrix of this shape is decomposed in full."""
    small = min(shape) <= EXACT_SIDE and shape[0] * shape[1] <= EXACT_ELEMENTS
    return small or rank + OVERSAMPLING >= min(shape) // 2


def working_bytes(shape: tuple[int, ...], rank: int) -> int:
    """What `nearest` takes beside the matrix itself, at most."""
    if rank >= min(shape):
        return 4 * min(shape) ** 2
    if is_exact(shape, rank):
        return 8 * (3 * shape[0] * shape[1] + 4 * min(shape) ** 2)
    return 48 * (shape[0] + shape[1]) * (rank + OVERSAMPLING)


def signed(b: NDArray[np.float64], a: NDArray[np.float64]) -> LoraFactors:
    """b [out, r] and a [r, in] in float32, with the largest entry of each row of a positive: the signs are unique."""
    signs = np.sign(a[np.arange(len(a)), np.abs(a).argmax(axis=1)])
    signs[signs == 0] = 1
    return LoraFactors((a * signs[:, None]).astype(np.float32), (b * signs).astype(np.float32))


def generator(seed: int, name: str) -> np.random.Generator:
    """A counter-based stream of random numbers of its own for every seed and name."""
    key = hashlib.blake2b(f"{seed}\0{name}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(key, np.uint64)))


def _whole(matrix: Matrix) -> LoraFactors:
    """The matrix itself beside an identity."""
    out, width = matrix.shape
    dense = np.asarray(matrix, np.float32)
    if width <= out:
        return LoraFactors(np.eye(width, dtype=np.float32), dense)
    return LoraFactors(dense, np.eye(out, dtype=np.float32))


def _exact(matrix: Matrix) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    u, s, vt = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
    return u, s, vt


def _randomised(
    matrix: Matrix, rank: int, random: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    basis = _orthonormal(matrix @ random.standard_normal((matrix.shape[1], rank + OVERSAMPLING), np.float32))
    for _ in range(POWER_ITERATIONS):
        basis = _orthonormal(matrix @ _orthonormal(matrix.T @ basis))
    small = (basis.T @ matrix).astype(np.float64)
    right, lower = np.linalg.qr(small.T)
    u, s, vt = np.linalg.svd(lower.T)
    return basis.astype(np.float64) @ u, s, vt @ right.T


def _orthonormal(columns: Matrix) -> NDArray[np.float32]:
    basis: NDArray[np.float32] = np.linalg.qr(columns.astype(np.float64))[0].astype(np.float32)
    return basis


def _squares(matrix: Matrix) -> float:
    """The squared Frobenius norm, in float64 and row by row."""
    return float(sum(float(np.dot(row, row)) for row in (values.astype(np.float64) for values in matrix)))
