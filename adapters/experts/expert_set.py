"""An expert set in memory: low-rank experts and what routes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from graftwork.adapters.algebra.algebra import scale
from graftwork.adapters.variants.lora import LoraAdapter, LoraFactors
from graftwork.errors import InvalidExpertSet, NonFiniteTensor
from graftwork.kernels.dtypes import numpy_dtype
from graftwork.registry.formats.experts import (
    INLINE,
    ROUTER,
    SCALING,
    TASKS,
    WEIGHTS_FILE,
    Entry,
    Router,
    layer_of,
    parse_layers,
    read_experts,
)
from graftwork.registry.formats.safetensors import TensorInfo

Values = NDArray[np.float32]
Member = Callable[[str], LoraAdapter]
"""Loads the adapter with a digest."""


@dataclass(frozen=True, slots=True)
class Expert:
    """The changes of one expert, its weight and its output scaling folded in, without deactivated layers."""

    name: str
    always: bool
    modules: Mapping[str, LoraFactors]


@dataclass(frozen=True, slots=True)
class ExpertSet:
    """Experts, a router, and the router's tensors by the names they have in the file."""

    name: str
    experts: tuple[Expert, ...]
    router: Router
    tensors: Mapping[str, Values]

    @property
    def modules(self) -> tuple[str, ...]:
        """Every module that some expert changes."""
        return tuple(dict.fromkeys(module for expert in self.experts for module in expert.modules))

    @property
    def routed(self) -> tuple[Expert, ...]:
        """The experts that the router weighs, in order: its rows are theirs."""
        return tuple(expert for expert in self.experts if not expert.always)

    def in_module(self, module: str) -> tuple[Expert, ...]:
        """The experts that change a module: the routed ones, then those that are always added."""
        found = [expert for expert in self.experts if module in expert.modules]
        return tuple(sorted(found, key=lambda expert: expert.always))

    def refuse(self, reason: str) -> InvalidExpertSet:
        """The error that says what is wrong with this set."""
        return InvalidExpertSet(path=self.name, reason=reason)


def load_expert_set(folder: Path, member: Member, name: str | None = None) -> ExpertSet:
    """The expert set in `folder`, in float32; messages call it `name`.

    Raises what `read_experts` and `member` raise, NonFiniteTensor, and InvalidExpertSet when no expert changes
    anything, for a tensor of a module that none changes, and when an expert's output scaling does not fit.
    """
    layout = read_experts(folder)
    name = name or folder.name
    tensors = {key: read_values(layout.root / WEIGHTS_FILE, info) for key, info in layout.tensors.items()}
    entries = layout.document.experts
    experts = []
    known: set[str] = set()
    for index, entry in enumerate(entries):
        modules = _inline(tensors, entry.name) if entry.adapter is None else member(entry.adapter).modules
        known.update(modules)
        changed = _scaled(_active(modules, entry), entry.weight, _scaling(tensors, index, len(entries), name))
        experts.append(Expert(entry.name, entry.always, changed))
    if not any(expert.modules for expert in experts):
        raise InvalidExpertSet(path=name, reason="its experts change no module at all")
    forms = (TASKS, SCALING) if layout.document.router.scope == "set" else (ROUTER, TASKS, SCALING)
    for key, form in product(tensors, forms):
        if (match := form.fullmatch(key)) is not None and match["module"] is not None and match["module"] not in known:
            raise InvalidExpertSet(path=name, reason=f"the tensor {key!r} is of a module that no expert changes")
    own = {key: values for key, values in tensors.items() if key.startswith(("router.", "tasks."))}
    return ExpertSet(name, tuple(experts), layout.document.router, own)


def _inline(tensors: Mapping[str, Values], expert: str) -> dict[str, LoraFactors]:
    found = {}
    for key, a in tensors.items():
        match = INLINE.fullmatch(key)
        if match is not None and match["expert"] == expert and match["side"] == "A":
            found[match["module"]] = LoraFactors(a, tensors[key.removesuffix("A") + "B"])
    return found


def _active(modules: Mapping[str, LoraFactors], entry: Entry) -> dict[str, LoraFactors]:
    """What is left of an adapter without its deactivated layers (S3T's exact unlearning)."""
    ranges = parse_layers(entry.deactivate) if entry.deactivate is not None else ()

    def is_off(module: str) -> bool:
        layer = layer_of(module)
        return layer is not None and any(first <= layer <= (layer if last is None else last) for first, last in ranges)

    return {module: factors for module, factors in modules.items() if not is_off(module)}


def _scaled(
    modules: Mapping[str, LoraFactors], weight: float, scaling: Callable[[str, int], Values | None]
) -> dict[str, LoraFactors]:
    """weight * diag(omega) b a: ScaLearn's output scaling of a linear branch is a scaling of the rows of b."""
    scaled = {}
    for module, factors in modules.items():
        if factors.a.shape[0] != factors.b.shape[1]:
            shapes = f"{list(factors.a.shape)} and {list(factors.b.shape)}"
            raise InvalidExpertSet(path=module, reason=f"its factors are {shapes}; [rank, in] and [out, rank] are due")
        omega = scaling(module, factors.b.shape[0])
        pair = factors if omega is None else LoraFactors(factors.a, factors.b * omega)
        scaled[module] = scale(pair, weight)
    return scaled


def _scaling(tensors: Mapping[str, Values], index: int, experts: int, name: str) -> Callable[[str, int], Values | None]:
    """Module and its outputs -> the scaling of expert `index` there, [1] or [out, 1]; None without any."""

    def of(module: str, out: int) -> Values | None:
        key = f"scaling.{module}" if f"scaling.{module}" in tensors else "scaling"
        if key not in tensors:
            return None
        omega = tensors[key]
        if omega.shape not in ((experts,), (experts, out)):
            accepted = f"[{experts}] or [{experts}, {out}]"
            raise InvalidExpertSet(path=name, reason=f"{key} is {list(omega.shape)}; accepted is {accepted}")
        chosen: Values = omega[index].reshape(-1, 1)
        return chosen

    return of


def read_values(path: Path, info: TensorInfo) -> Values:
    """One tensor of a safetensors file, in float32. Raises NonFiniteTensor."""
    with path.open("rb") as file:
        file.seek(info.begin)
        stored = np.frombuffer(file.read(info.nbytes), numpy_dtype(info.dtype)).reshape(info.shape)
    values: Values = stored.astype(np.float32)
    if bad := int((~np.isfinite(values)).sum()):
        raise NonFiniteTensor(tensor=info.name, path=str(path), count=bad)
    return values


def ranks(experts: Sequence[Expert], module: str) -> list[int]:
    """The rank of each expert in a module."""
    return [expert.modules[module].rank for expert in experts]
