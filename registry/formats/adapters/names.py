"""What a model's files call the modules of an adapter, which has them by the names of the class it was trained with."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TypeVar

from graftwork.registry.formats.encoders import TRUNKS

TRUNK_NAMES = sorted({*TRUNKS.values(), "backbone", "gpt_neox", "model", "transformer"})
"""What classes with a head call the model without it."""
LLAVA = {
    "model.language_model": "language_model.model",
    "model.vision_tower": "vision_tower",
    "model.multi_modal_projector": "multi_modal_projector",
    "lm_head": "language_model.lm_head",
}
MULTIMODAL = (
    LLAVA,
    LLAVA | {"model.vision_tower": "vision_tower.vision_model"},
    {"model.language_model": "model", "model.visual": "visual"},
)
"""Of vision-language models (LLaVA and its kin, Qwen2-VL): what transformers has in place of what their files say."""
Tensor = TypeVar("Tensor")


def names_in(tensors: Collection[str], modules: Collection[str], *, headless: bool = True) -> Mapping[str, str]:
    """What a model of these tensors calls those of an adapter's modules that it calls otherwise.

    headless: whether one of the two may have been saved by the class without a head, which no engine serves
    """
    missing = [module for module in modules if f"{module}.weight" not in tensors]
    ways: list[dict[str, str]] = [{}]
    for trunk in TRUNK_NAMES if headless else ():
        ways.append({module: f"{trunk}.{module}" for module in missing})
        ways.append({module: module.removeprefix(f"{trunk}.") for module in missing})
    for table in MULTIMODAL:
        ways.append({module: _renamed(module, table) for module in missing})
        ways.append({module: _renamed(module, {old: new for new, old in table.items()}) for module in missing})
    found = [{module: name for module, name in way.items() if f"{name}.weight" in tensors} for way in ways]
    return max(found, key=len)


def by_every_name(
    tensors: Mapping[str, Tensor], modules: Collection[str], *, headless: bool = True
) -> Mapping[str, Tensor]:
    """The tensors of a model, those of an adapter's modules by the adapter's names too; `headless` as in `names_in`."""
    known = dict(tensors)
    for module, here in names_in(tensors, modules, headless=headless).items():
        for parameter in ("weight", "bias"):
            if f"{here}.{parameter}" in tensors:
                known[f"{module}.{parameter}"] = tensors[f"{here}.{parameter}"]
    return known


def _renamed(module: str, table: Mapping[str, str]) -> str:
    """`module` with the first of the table's beginnings that it has exchanged."""
    found = next((old for old in table if f"{module}.".startswith(f"{old}.")), None)
    return module if found is None else table[found] + module[len(found) :]
