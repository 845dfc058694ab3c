"""A family with random weights, made in under a second: for tests that need the files and not the skills."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from graftwork.testing.family import Family, save
from graftwork.testing.model import Shape, load_model, new_model, with_new_adapter
from graftwork.testing.tokenizer import character_tokenizer

TINY = Shape(layers=2, hidden=32, intermediate=64, heads=4, key_value_heads=2, context=64, rank=4)
CHANGE = 0.02
"""Standard deviation of what a fine-tune or an adapter's factors add to a weight."""


def tiny_family(
    root: Path,
    *,
    seed: int = 0,
    fine_tunes: int = 3,
    adapters: int = 3,
    dtype: torch.dtype = torch.float32,
    shape: Shape = TINY,
) -> Family:
    """A base, fine-tunes `ft0`, `ft1`, ... and PEFT adapters `adapter0`, ... below `root`, all different.

    Checkpoints are in `dtype`, adapters in float32 as PEFT keeps them. The adapters' ranks are `shape.rank`, then one
    more each, and their B factors are not zero.
    """
    tokenizer = character_tokenizer(context=shape.context)
    base = new_model(shape, tokenizer, seed=seed)
    nn.Module.to(base, dtype)
    family = Family(
        base=root / "base",
        fine_tunes={f"ft{number}": root / f"ft{number}" for number in range(fine_tunes)},
        adapters={f"adapter{number}": root / f"adapter{number}" for number in range(adapters)},
    )
    save(base, tokenizer, family.base)
    for number, folder in enumerate(family.fine_tunes.values()):
        model = load_model(family.base)
        _change(model, seed + 1000 + number)
        save(model, tokenizer, folder)
    for number, folder in enumerate(family.adapters.values()):
        adapted = with_new_adapter(
            load_model(family.base), replace(shape, rank=shape.rank + number), seed=seed + number
        )
        _change(adapted, seed + 2000 + number)
        adapted.save_pretrained(str(folder))
    return family


def _change(model: nn.Module, seed: int) -> None:
    """Add noise to every parameter that takes gradients."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(CHANGE * torch.randn(parameter.shape, generator=generator))
