"""Calls of `sparse_combine` for its test and its benchmark."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from graftwork.kernels.case import SIZES, Case, unwritten
from graftwork.kernels.sparse_combine import ByRank, Mask
from graftwork.kernels.ties_combine.cases import trimmed

KEYS = (0x0123_4567_89AB_CDEF, 2**64 - 1, 7)


def cases(dtype: str) -> Iterator[Case]:
    """Block borders; bands whose cutoffs stand before, inside and after a slice; draws; rows; each vote and divisor."""
    rng = np.random.default_rng(6)
    for size in SIZES:
        for vote, divide in (
            ("none", "none"),
            ("weighted", "none"),
            ("weighted", "weights"),
            ("unweighted", "weights"),
            ("weighted", "signed_weights"),
        ):
            for kind in ("band", "chance", "chances"):
                yield _case(rng, size, (0.5, -0.4, 1.0), dtype, kind, {"scale": 0.9, "vote": vote, "divide": divide})
    for width in (1, 3, 250, 3750):
        yield _case(rng, 7500, (0.5, -0.4, 1.0), dtype, "ranks", {"vote": "weighted"}, width)
    yield _case(rng, 1000, (0.7,), dtype, "ranks scaled", {}, 500)
    yield _case(rng, 1000, (0.7,), dtype, "chances scaled", {})
    yield _case(rng, 1000, (0.7, 0.2), dtype, "nothing", {"vote": "weighted"})
    yield _case(rng, 1000, (0.7, 0.2, -0.3), dtype, "one dropped", {"vote": "weighted", "divide": "weights"})


def workload(dtype: str) -> Case:
    """DARE with TIES of three models."""
    options = {"vote": "weighted", "divide": "none"}
    return _case(np.random.default_rng(6), 1 << 24, (0.5, 0.3, 0.2), dtype, "chance", options)


def _case(
    rng: np.random.Generator,
    size: int,
    coefficients: tuple[float, ...],
    dtype: str,
    kind: str,
    options: dict[str, Any],
    width: int = 1,
) -> Case:
    base, inputs, thresholds, cutoffs = trimmed(rng, size, len(coefficients), dtype)
    chances = rng.random(size, np.float32)
    masks = []
    for i, (threshold, cutoff) in enumerate(zip(thresholds, cutoffs, strict=True)):
        magnitudes = np.abs(inputs[i].astype(np.float32) - base.astype(np.float32)).view(np.int32)
        ceiling = int(np.sort(magnitudes)[size * 9 // 10])
        masks.append(
            {
                "band": Mask(threshold, cutoff, ceiling, 10_003 + size // 3),
                "chance": Mask(chance=(0.5, 0.9, 1.0)[i], key=KEYS[i], factor=(None, 0.7, 1.25)[i]),
                "chances": Mask(chance=chances, key=KEYS[i], factor=None),
                "chances scaled": Mask(chance=chances, key=KEYS[i], factor=1.5),
                "ranks": Mask(chance=ByRank(0.35, (0.65, 0.35, 1.0)[i], width), key=KEYS[i], factor=None),
                "ranks scaled": Mask(chance=ByRank(0.35, 0.65, width), key=KEYS[i], factor=1.5),
                "nothing": Mask(),
                "one dropped": Mask(chance=(0.5, 0.0, 1.0)[i], key=KEYS[i], factor=None),
            }[kind]
        )
    arguments = {
        "out": unwritten(size, dtype),
        "base": base,
        "inputs": inputs,
        "weights": list(coefficients),
        "masks": masks,
        "offset": 10_003,
    }
    shape = f"{size // width}x{width}" if kind.startswith("ranks") else str(size)
    name = f"{shape}x{len(coefficients)}-{kind}-{'-'.join(map(str, options.values()))}"
    return Case(name, arguments | options, writes="out")
