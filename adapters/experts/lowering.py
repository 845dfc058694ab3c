"""From an expert set to what an engine computes: rank rows side by side, and gates that weigh them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from graftwork.adapters.algebra.algebra import cat
from graftwork.adapters.changes import Change, Factors, Gate, Lowered
from graftwork.adapters.experts import tables
from graftwork.adapters.experts.choice import Choice
from graftwork.adapters.experts.expert_set import Expert, ExpertSet, Values, ranks
from graftwork.adapters.experts.gates import Columns, SetGate, SetRouter, TokenGate
from graftwork.adapters.experts.prototypes import prototype, unit_rows
from graftwork.adapters.variants.lora import LoraFactors
from graftwork.errors import InvalidRequest, NonFiniteTensor


def lower_experts(experts: ExpertSet, task: str | None, dtype: torch.dtype, device: torch.device) -> Lowered:
    """What an engine computes for a set: a plain low-rank change, or one with a gate for each module.

    A fixed router and a task-table (whose `task` is named) need no gate. Every other router keeps the experts' rank
    rows side by side, the routed ones first. Raises InvalidRequest for a task that is unknown, missing or out of
    place, InvalidExpertSet for router tensors that do not fit the experts, NonFiniteTensor.
    """
    router = experts.router
    if router.kind == "task-table":
        if task is None:
            known = ", ".join(router.tasks)
            raise InvalidRequest(field="model", reason=f"{experts.name} needs a task, as in NAME[TASK]; it has {known}")
        return lower_lora(tables.materialise(experts, task), dtype)
    if task is not None:
        raise InvalidRequest(field="model", reason=f"{experts.name} is not routed by tasks, so it has no {task!r}")
    stacked = {module: _stack(experts.in_module(module), module) for module in experts.modules}
    lowered = lower_lora(stacked, dtype)
    return lowered if router.kind == "fixed" else Lowered(lowered.changes, _gates(experts, device))


def lower_lora(modules: Mapping[str, LoraFactors], dtype: torch.dtype) -> Lowered:
    """A plain low-rank change, rounded once to `dtype`. Raises NonFiniteTensor when that overflows."""
    changes = {}
    for module, pair in modules.items():
        a, b = (torch.from_numpy(np.ascontiguousarray(factor)).to(dtype) for factor in (pair.a, pair.b.T))
        for side, factor in (("A", a), ("B", b)):
            if bad := int((~factor.isfinite()).sum()):
                raise NonFiniteTensor(tensor=f"{module}.lora_{side}", path=f"the sum in {dtype}", count=bad)
        changes[module] = Change(low_rank=Factors(a, b))
    return Lowered(changes)


def _stack(experts: Sequence[Expert], module: str) -> LoraFactors:
    return cat([expert.modules[module] for expert in experts], [1.0] * len(experts))


def _gates(experts: ExpertSet, device: torch.device) -> dict[str, Gate]:
    choice = Choice.of(experts.router)
    if experts.router.scope == "set":
        shared = _set_router(experts, choice, device)
        return {module: SetGate(shared, _set_columns(experts, module, device)) for module in experts.modules}
    return {module: _token_gate(experts, module, choice, device) for module in experts.modules}


def _token_gate(experts: ExpertSet, module: str, choice: Choice, device: torch.device) -> TokenGate:
    found = experts.in_module(module)
    routed = [expert for expert in found if not expert.always]
    by_rank = experts.router.unit == "rank"
    total = sum(ranks(routed, module))
    if by_rank:
        units = list(range(total))
    else:
        units = [unit for unit, rank in enumerate(ranks(routed, module)) for _ in range(rank)]
    count = total if by_rank else len(routed)
    units += [-1] * (sum(ranks(found, module)) - total)
    columns = Columns.of(units, count, device)
    if experts.router.kind == "arrow":
        vectors = [
            unit_rows(expert.modules[module].a) if by_rank else prototype(expert.modules[module])[None]
            for expert in routed
        ]
        inner = found[0].modules[module].a.shape[1]
        weight = np.concatenate(vectors) if vectors else np.zeros((0, inner), np.float32)
        return TokenGate(_on(weight, device), None, True, choice, columns)
    own, bias = (experts.tensors.get(f"router.{module}.{side}") for side in ("weight", "bias"))
    if own is None:
        raise experts.refuse(f"there is no tensor router.{module}.weight for a module that its experts change")
    weight = _per_unit(experts, f"router.{module}.weight", own, count)
    if weight.shape[1] != found[0].modules[module].a.shape[1]:
        inner = found[0].modules[module].a.shape[1]
        raise experts.refuse(f"router.{module}.weight is {list(own.shape)}; the module has {inner} inputs")
    shift = None if bias is None else _on(_per_unit(experts, f"router.{module}.bias", bias, count), device)
    return TokenGate(_on(weight, device), shift, False, choice, columns)


def _per_unit(experts: ExpertSet, name: str, values: Values, count: int) -> Values:
    """Router rows for every unit; between ranks, a row may be shared by a partition of consecutive ones (SMoRA)."""
    if len(values) != count and (experts.router.unit == "expert" or not len(values) or count % len(values)):
        what = "ranks" if experts.router.unit == "rank" else "experts"
        raise experts.refuse(f"{name} is {list(values.shape)}; it routes {count} {what}")
    return np.repeat(values, count // len(values), axis=0) if len(values) != count else values


def _set_router(experts: ExpertSet, choice: Choice, device: torch.device) -> SetRouter:
    layers: list[tuple[Tensor, Tensor | None]] = []
    while (weight := experts.tensors.get(f"router.{len(layers)}.weight")) is not None:
        bias = experts.tensors.get(f"router.{len(layers)}.bias")
        layers.append((_on(weight, device), None if bias is None else _on(bias, device)))
    named = {name for name in experts.tensors if name.startswith("router.")}
    known = {f"router.{index}.{side}" for index in range(len(layers)) for side in ("weight", "bias")}
    if named - known or not layers:
        names = ", ".join(sorted(named - known)) or "nothing"
        raise experts.refuse(f"a router of the scope 'set' has layers router.0, router.1 and so on; it has {names}")
    sizes = [tuple(weight.shape) for weight, _ in layers]
    if sizes[-1][0] != len(experts.routed) or any(a[0] != b[1] for a, b in pairwise(sizes)):
        raise experts.refuse(f"its router's layers are {sizes}; the last one routes {len(experts.routed)} experts")
    for matrix, shift in layers:
        if shift is not None and shift.shape != matrix.shape[:1]:
            raise experts.refuse(f"a bias of its router is {list(shift.shape)}, its weight {list(matrix.shape)}")
    return SetRouter(tuple(layers), choice)


def _set_columns(experts: ExpertSet, module: str, device: torch.device) -> Columns:
    place = {expert.name: index for index, expert in enumerate(experts.routed)}
    found = experts.in_module(module)
    units = [place.get(expert.name, -1) for expert in found for _ in range(expert.modules[module].rank)]
    return Columns.of(units, len(place), device)


def _on(values: Values, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(device)
