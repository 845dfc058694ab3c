"""Streams of random numbers, told apart by the recipe's seed, the tensor and the model."""

from __future__ import annotations

import hashlib

from graftwork.merge.slices.slices import Slice


def stream_key(seed: int, tensor: str, model: int) -> int:
    """The key of `philox` for one model's position and one tensor: 64 bits, the same in every process."""
    named = f"{seed}\n{model}\n{tensor}".encode()
    return int.from_bytes(hashlib.blake2b(named, digest_size=8).digest(), "little")


def stream_keys(piece: Slice) -> list[int]:
    """The key of every model of a slice."""
    return [stream_key(piece.seed, piece.tensor, model) for model in range(len(piece.inputs))]
