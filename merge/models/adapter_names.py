"""What a model calls the modules of an adapter, where one of the two was saved by the class without a head."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from graftwork.registry.formats.checkpoint import Located
from graftwork.registry.formats.encoders import TRUNKS
from graftwork.registry.formats.safetensors import TensorInfo

TRUNK_NAMES = sorted({*TRUNKS.values(), "backbone", "gpt_neox", "model", "transformer"})
"""What classes with a head call the model without it."""


def names_in(tensors: Collection[str], modules: Collection[str]) -> Mapping[str, str]:
    """What a model of these tensors calls those of an adapter's modules that it calls otherwise."""
    missing = [module for module in modules if f"{module}.weight" not in tensors]
    ways: list[dict[str, str]] = [{}]
    for trunk in TRUNK_NAMES:
        ways.append({module: f"{trunk}.{module}" for module in missing})
        ways.append({module: module.removeprefix(f"{trunk}.") for module in missing})
    found = [{module: name for module, name in way.items() if f"{name}.weight" in tensors} for way in ways]
    return max(found, key=len)


def shapes_for(tensors: Mapping[str, Located], modules: Collection[str]) -> Mapping[str, TensorInfo]:
    """The tensors of a model, those of an adapter's modules by the adapter's names too."""
    shapes = {name: at.info for name, at in tensors.items()}
    for module, here in names_in(tensors, modules).items():
        own = {parameter: shapes.get(f"{here}.{parameter}") for parameter in ("weight", "bias")}
        shapes |= {f"{module}.{parameter}": info for parameter, info in own.items() if info is not None}
    return shapes
