"""Routers against their formulas, written out row by row and expert by expert in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from peft.tuners.lora.arrow import ArrowLoraLinearLayer
from peft.tuners.lora.config import ArrowConfig
from peft.tuners.poly import PolyConfig
from peft.tuners.poly.layer import Linear as PolyLinear

from graftwork.adapters.experts.choice import Choice
from graftwork.adapters.experts.expert_set import Expert, ExpertSet
from graftwork.adapters.experts.lowering import lower_experts
from graftwork.adapters.experts.prototypes import prototype
from graftwork.adapters.variants.lora import LoraFactors
from graftwork.errors import GraftworkError, InvalidExpertSet, InvalidRequest
from graftwork.registry.formats.experts import Router

INNER, OUT = 12, 10
MODULE = "model.layers.0.self_attn.q_proj"
CPU = torch.device("cpu")


def factors(seed: int, rank: int, *, gap: float = 1.0) -> LoraFactors:
    """Random factors whose first direction is `gap` times as strong as the others."""
    random = np.random.default_rng(seed)
    a, b = random.standard_normal((rank, INNER)), random.standard_normal((OUT, rank))
    a[0] *= gap
    return LoraFactors(a.astype(np.float32), b.astype(np.float32))


def expert_set(ranks: Sequence[int], *, always: int = 0, gap: float = 1.0, **router: Any) -> ExpertSet:
    """Experts of one module; the last `always` of them are added to every row."""
    tensors = router.pop("tensors", {})
    made = [
        Expert(f"e{i}", i >= len(ranks) - always, {MODULE: factors(i, rank, gap=gap)}) for i, rank in enumerate(ranks)
    ]
    return ExpertSet("acme/set", tuple(made), Router(**router), tensors)


def change(experts: ExpertSet, x: torch.Tensor, task: str | None = None) -> np.ndarray[Any, Any]:
    """What the engine adds for rows x [rows, in]: (gate(x) * (x a')) b."""
    lowered = lower_experts(experts, task, torch.float32, CPU)
    pair = lowered.low_rank[MODULE]
    hidden = x @ pair.a.t()
    if MODULE in lowered.gates:
        hidden = hidden * lowered.gates[MODULE](x)
    return (hidden @ pair.b).numpy()


def rows(count: int = 7) -> torch.Tensor:
    return torch.randn((count, INNER), generator=torch.Generator().manual_seed(5))


def weighed(scores: Sequence[float], bias: Sequence[float] | None, router: Router) -> list[float]:
    """The documented formula for one row, in Python's floats."""
    logits = list(scores)
    if bias is not None and router.bias == "logits":
        logits = [score + shift for score, shift in zip(logits, bias, strict=True)]
    logits = [logit / router.temperature for logit in logits]
    if router.activation == "softmax":
        powers = [math.exp(logit - max(logits)) for logit in logits]
        gates = [power / sum(powers) for power in powers]
    else:
        gates = [1 / (1 + math.exp(-logit)) for logit in logits]
    ranking = list(gates)
    if bias is not None and router.bias != "logits":
        ranking = [gate + shift for gate, shift in zip(gates, bias, strict=True)]
        gates = list(ranking) if router.bias == "gates" else gates
    best = sorted(range(len(gates)), key=lambda unit: (-ranking[unit], unit))[: router.top_k or len(gates)]
    kept = [gate if unit in best else 0.0 for unit, gate in enumerate(gates)]
    if router.renormalise:
        kept = [gate / sum(kept) for gate in kept]
    return [router.gate_scale * gate for gate in kept]


ROUTERS: dict[str, dict[str, Any]] = {
    "MoLA": {"top_k": 2},
    "all of them": {},
    "more than there are": {"top_k": 9},
    "the best": {"top_k": 1, "renormalise": False},
    "cool": {"top_k": 3, "temperature": 0.3, "gate_scale": 2.5},
    "sigmoid": {"activation": "sigmoid", "renormalise": False},
    "sigmoid of the best": {"activation": "sigmoid", "top_k": 2, "temperature": 2.0},
    "logit bias": {"top_k": 2, "tensors": "bias"},
    "gate bias": {"top_k": 2, "activation": "sigmoid", "bias": "gates", "tensors": "bias"},
    "selection bias": {"top_k": 2, "activation": "sigmoid", "bias": "selection", "tensors": "bias"},
}


@pytest.mark.parametrize("name", ROUTERS)
def test_a_linear_router_is_its_formula(name: str) -> None:
    options = dict(ROUTERS[name])
    random = np.random.default_rng(9)
    tensors = {f"router.{MODULE}.weight": random.standard_normal((4, INNER)).astype(np.float32)}
    bias = random.standard_normal(4).astype(np.float32) if options.pop("tensors", None) else None
    if bias is not None:
        tensors[f"router.{MODULE}.bias"] = bias
    experts = expert_set([3, 1, 4, 2], kind="linear", tensors=tensors, **options)
    x = rows()
    expected = np.zeros((len(x), OUT))
    for row, values in enumerate(x.double().numpy()):
        scores = tensors[f"router.{MODULE}.weight"].astype(np.float64) @ values
        weights = weighed(list(scores), None if bias is None else list(bias.astype(np.float64)), experts.router)
        for weight, expert in zip(weights, experts.experts, strict=True):
            expected[row] += weight * (expert.modules[MODULE].delta().astype(np.float64) @ values)
    np.testing.assert_allclose(change(experts, x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("partition", [1, 2, 4])
def test_single_ranks_are_routed_as_smora_routes_them(partition: int) -> None:
    """y = (alpha / k) B[:, top] (k g A x), g the gates of the top k ranks at sum 1, the bias among the gates."""
    rank, top, alpha = 8, 3, 6.0
    random = np.random.default_rng(partition)
    weight = random.standard_normal((rank // partition, INNER)).astype(np.float32)
    bias = (0.1 * random.standard_normal(rank)).astype(np.float32)
    plain = factors(0, rank)
    scaled = LoraFactors(plain.a, plain.b * np.float32(alpha / top))
    router = Router(
        kind="linear",
        unit="rank",
        activation="sigmoid",
        top_k=top,
        bias="gates",
        gate_scale=float(top),
        renormalise=True,
    )
    tensors = {f"router.{MODULE}.weight": weight, f"router.{MODULE}.bias": bias}
    experts = ExpertSet("acme/smora", (Expert("e", False, {MODULE: scaled}),), router, tensors)
    x = rows()
    expected = np.zeros((len(x), OUT))
    for row, values in enumerate(x.double().numpy()):
        gates = np.repeat(1 / (1 + np.exp(-(weight.astype(np.float64) @ values))), partition) + bias
        best = sorted(range(rank), key=lambda unit: (-gates[unit], unit))[:top]
        for unit in best:
            gate = top * gates[unit] / gates[best].sum()
            expected[row] += alpha / top * plain.b[:, unit] * gate * (plain.a[unit].astype(np.float64) @ values)
    np.testing.assert_allclose(change(experts, x), expected, rtol=1e-4, atol=1e-4)


def test_equal_scores_go_to_the_lower_index() -> None:
    choice = Choice.of(Router(kind="linear", top_k=2, activation="sigmoid", renormalise=False))
    scores = torch.tensor([[0.0, 1.0, 1.0, 1.0, 0.0], [0.5, 0.5, 0.5, 0.5, 0.5], [40.0, 60.0, 50.0, 60.0, 0.0]])
    kept = [row.nonzero().flatten().tolist() for row in choice.weigh(scores)]
    assert kept == [[1, 2], [0, 1], [1, 3]]


@pytest.mark.parametrize("kind", ["linear", "arrow"])
@pytest.mark.parametrize("unit", ["expert", "rank"])
def test_all_of_them_are_the_dense_mix(kind: str, unit: str) -> None:
    """top_k = E, and no top_k at all, weigh every expert as the formula without a selection does."""
    ranks = [2, 3, 1]
    units = len(ranks) if unit == "expert" else sum(ranks)
    weight = np.random.default_rng(2).standard_normal((units, INNER)).astype(np.float32)
    tensors = {f"router.{MODULE}.weight": weight} if kind == "linear" else {}
    options: dict[str, Any] = {"kind": kind, "unit": unit, "tensors": tensors}
    sparse, dense = expert_set(ranks, top_k=units, **options), expert_set(ranks, **options)
    x = rows()
    assert np.array_equal(change(sparse, x), change(dense, x))
    gate = lower_experts(sparse, None, torch.float32, CPU).gates[MODULE](x)
    owners = np.repeat(range(len(ranks)), ranks) if unit == "expert" else np.arange(units)
    each = gate[:, [list(owners).index(unit) for unit in range(units)]]
    assert (gate > 0).all()
    torch.testing.assert_close(each.sum(dim=1), torch.ones(len(x)))


def test_experts_that_are_always_there_have_weight_one() -> None:
    experts = expert_set([2, 3, 1, 2], always=2, kind="arrow", top_k=1)
    x = rows()
    gate = lower_experts(experts, None, torch.float32, CPU).gates[MODULE](x)
    assert torch.equal(gate[:, 5:], torch.ones(len(x), 3))
    assert torch.isin(gate[:, :5].sum(dim=1), torch.tensor([2.0, 3.0])).all()


def test_arrow_is_pefts() -> None:
    """The coefficients and the change of PEFT's own layer, for experts with a clear first direction."""
    experts = expert_set([4, 4, 4], gap=12.0, kind="arrow", top_k=2, temperature=1.7)
    names = ["task_0", "task_1", "task_2"]
    config = ArrowConfig(top_k=2, router_temperature=1.7, rng_seed=3)
    config.task_adapter_names, config.gks_adapter_names = names, []
    layer: Any = ArrowLoraLinearLayer(INNER, config)  # type: ignore[no-untyped-call]
    pairs = [expert.modules[MODULE] for expert in experts.experts]
    lora_a, lora_b = torch.nn.ModuleDict(), torch.nn.ModuleDict()
    for name, pair in zip(names, pairs, strict=True):
        for layers, factor in ((lora_a, pair.a), (lora_b, pair.b)):
            linear = torch.nn.Linear(factor.shape[1], factor.shape[0], bias=False)
            linear.weight.data.copy_(torch.from_numpy(factor))
            layers[name] = linear
    layer.build_prototypes(lora_a, lora_b)
    for found, pair in zip(layer.prototypes, pairs, strict=True):
        mine = torch.from_numpy(prototype(pair))
        torch.testing.assert_close(found * torch.sign(found @ mine), mine, rtol=0, atol=1e-5)
    x = rows()
    expected = layer(x[None], lora_a, lora_b, torch.nn.Identity(), dict.fromkeys(names, 1.0))[0]
    np.testing.assert_allclose(change(experts, x), expected.detach().numpy(), rtol=1e-4, atol=1e-4)


def test_a_prototype_is_the_first_right_singular_vector() -> None:
    pair = factors(4, 5)
    _, _, vectors = np.linalg.svd(pair.delta().astype(np.float64))
    assert abs(vectors[0] @ prototype(pair)) == pytest.approx(1, abs=1e-6)
    assert not prototype(LoraFactors(pair.a, 0 * pair.b)).any()


@pytest.mark.parametrize("splits", [1, 2])
def test_poly_and_mhr_are_pefts(splits: int) -> None:
    """PEFT's layer for every task: factors are mixed head by head, then multiplied."""
    tasks, skills, rank = 3, 4, 5
    torch.manual_seed(0)
    config = PolyConfig(r=rank, n_tasks=tasks, n_skills=skills, n_splits=splits, init_weights=False)
    layer: Any = PolyLinear(torch.nn.Linear(INNER, OUT, bias=False), "default", config).eval()
    logits = layer.poly_router["default"].module_logits
    logits.data.normal_()
    a, b = (getattr(layer, f"poly_lora_{side}")["default"].detach() for side in "AB")
    made = []
    for skill in range(skills):
        mine = LoraFactors(
            a[:, skill].reshape(INNER, rank).t().contiguous().numpy(),
            b[:, skill].transpose(1, 2).reshape(OUT, rank).numpy() / np.float32(rank),
        )
        made.append(Expert(f"s{skill}", False, {MODULE: mine}))
    gates = torch.sigmoid(logits.detach()).view(tasks, splits, skills)
    table: Any = (gates / (gates.sum(dim=-1, keepdim=True) + 1e-12)).numpy()
    names = [f"task-{task}" for task in range(tasks)]
    router = Router(kind="task-table", combine="factors", tasks=names)
    experts = ExpertSet("acme/poly", tuple(made), router, {f"tasks.{MODULE}": table})
    x = rows()
    for task, name in enumerate(names):
        whole = layer(x[None], task_ids=torch.tensor([task]))[0] - layer.base_layer(x)
        np.testing.assert_allclose(change(experts, x, name), whole.detach().numpy(), rtol=1e-4, atol=1e-5)
    assert lower_experts(experts, names[0], torch.float32, CPU).ranks == {MODULE: rank}


def test_a_task_table_of_outputs_is_a_weighted_sum() -> None:
    tasks = {"sum": [0.5, -2.0], "code": [0.0, 1.0]}
    experts = expert_set([2, 3, 1], always=1, kind="task-table", tasks=tasks)
    x = rows()
    for task, weights in tasks.items():
        deltas = [expert.modules[MODULE].delta().astype(np.float64) for expert in experts.experts]
        total: Any = sum(weight * delta for weight, delta in zip([*weights, 1.0], deltas, strict=True))
        np.testing.assert_allclose(change(experts, x, task), x.double().numpy() @ total.T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("experts", "task", "kind", "told"),
    [
        (expert_set([1, 1], kind="task-table", tasks={"a": [1, 0]}), "b", InvalidRequest, "no task 'b'; it has a"),
        (expert_set([1, 1], kind="task-table", tasks={"a": [1, 0]}), None, InvalidRequest, r"as in NAME\[TASK\]"),
        (expert_set([1, 1]), "a", InvalidRequest, "not routed by tasks"),
        (expert_set([1, 1], kind="linear"), None, InvalidExpertSet, f"no tensor router.{MODULE}.weight"),
        (
            expert_set([2, 2], kind="linear", tensors={f"router.{MODULE}.weight": np.ones((3, INNER), np.float32)}),
            None,
            InvalidExpertSet,
            "routes 2 experts",
        ),
        (
            expert_set([2, 2], kind="linear", tensors={f"router.{MODULE}.weight": np.ones((2, 3), np.float32)}),
            None,
            InvalidExpertSet,
            f"the module has {INNER} inputs",
        ),
        (
            expert_set([1, 2], kind="task-table", combine="factors", tasks={"a": [1, 0]}),
            "a",
            InvalidExpertSet,
            "differ in shape",
        ),
    ],
)
def test_what_does_not_fit_is_refused(
    experts: ExpertSet, task: str | None, kind: type[GraftworkError], told: str
) -> None:
    with pytest.raises(kind, match=told):
        lower_experts(experts, task, torch.float32, CPU)
