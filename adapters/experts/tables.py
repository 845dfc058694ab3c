"""Task tables: the weights of the experts of a named task (Poly, arXiv:2202.13914; MHR, arXiv:2211.03831)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from graftwork.adapters.algebra.algebra import cat
from graftwork.adapters.experts.expert_set import Expert, ExpertSet
from graftwork.adapters.variants.lora import LoraFactors
from graftwork.errors import InvalidRequest

Weights = NDArray[np.float32]


def materialise(experts: ExpertSet, task: str) -> dict[str, LoraFactors]:
    """The plain low-rank change of every module for `task`.

    outputs:  sum_e w_e b_e a_e, whose rank is the sum of the ranks
    factors:  (sum_e w_he b_e) (sum_e w_he a_e), of the rank of one expert, as Poly and MHR train it: head h weighs
              its own share of the inputs of a and of the outputs of b

    Raises InvalidRequest for an unknown task, InvalidExpertSet for a table that does not fit.
    """
    mixed = {}
    for module in experts.modules:
        found = experts.in_module(module)
        table = weights(experts, task, module)
        routed = [expert for expert in found if not expert.always]
        if experts.router.combine == "factors":
            mixed[module] = _mix_factors(experts, module, routed, table)
        else:
            if len(table) != 1:
                raise experts.refuse(f"tasks.{module} has {len(table)} heads; combined outputs have 1")
            each = [*map(float, table[0]), *([1.0] * (len(found) - len(routed)))]
            mixed[module] = cat([expert.modules[module] for expert in found], each)
    return mixed


def weights(experts: ExpertSet, task: str, module: str) -> Weights:
    """The weights of a module's routed experts, [heads, experts]."""
    tasks = experts.router.tasks
    if task not in tasks:
        raise InvalidRequest(field="model", reason=f"{experts.name} has no task {task!r}; it has {', '.join(tasks)}")
    routed = [expert for expert in experts.in_module(module) if not expert.always]
    if isinstance(tasks, dict):
        of = dict(zip((expert.name for expert in experts.routed), tasks[task], strict=True))
        return np.asarray([[of[expert.name] for expert in routed]], np.float32)
    table = experts.tensors.get(f"tasks.{module}")
    if table is None:
        raise experts.refuse(f"there is no tensor tasks.{module} for a module that its experts change")
    if (table.shape[0], table.shape[2]) != (len(tasks), len(routed)):
        due = f"[{len(tasks)}, heads, {len(routed)}]"
        raise experts.refuse(f"tasks.{module} is {list(table.shape)}; {due} is due")
    chosen: Weights = table[tasks.index(task)]
    return chosen


def _mix_factors(experts: ExpertSet, module: str, routed: list[Expert], table: Weights) -> LoraFactors:
    pairs = [expert.modules[module] for expert in routed]
    if len({(pair.a.shape, pair.b.shape) for pair in pairs}) > 1:
        raise experts.refuse(f"the factors of {module} differ in shape, so that they cannot be combined")
    heads = len(table)
    (rank, inner), out = pairs[0].a.shape, pairs[0].b.shape[0]
    if inner % heads or out % heads:
        raise experts.refuse(f"{module} maps {inner} to {out}, which {heads} heads do not divide")
    a = np.stack([pair.a for pair in pairs]).reshape(len(pairs), rank, heads, inner // heads)
    b = np.stack([pair.b for pair in pairs]).reshape(len(pairs), heads, out // heads, rank)
    return LoraFactors(
        np.einsum("he,erhi->rhi", table, a).reshape(rank, inner), np.einsum("he,ehor->hor", table, b).reshape(out, rank)
    )
