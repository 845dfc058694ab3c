"""Expert sets in an engine: token-exact in fp32 against PEFT's Arrow and against merged weights where there are any."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft.tuners.lora.arrow import create_arrow_model
from peft.tuners.lora.config import ArrowConfig
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from graftwork.adapters.engine.engine import Engine
from graftwork.adapters.engine.sequence import Request, Sampling
from graftwork.adapters.experts.blend import weighted_sum
from graftwork.adapters.experts.expert_set import load_expert_set
from graftwork.adapters.experts.gates import FixedGate
from graftwork.adapters.experts.lowering import lower_experts, lower_lora
from graftwork.adapters.experts.request import route
from graftwork.adapters.experts.selection import selection_digest
from graftwork.adapters.residency.lease import Lease
from graftwork.adapters.variants.lora import LoraAdapter, load_lora
from graftwork.errors import InvalidExpertSet
from graftwork.registry.formats.experts import FORMAT

PROMPTS = [[256, *b"which expert answers?"], [256, *b"2 + 2 ="], [256, *b"zzz"]]
TOKENS = 10
ROWS = 128


@pytest.fixture(scope="module")
def skills(family_of: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three adapters of the same modules and ranks, each with a clear first direction, which PEFT's Arrow finds."""
    family, root = family_of("llama"), tmp_path_factory.mktemp("skills")
    made = {}
    for index, name in enumerate(("sum", "code", "chat")):
        folder = root / name
        folder.mkdir()
        source = family.adapters["attention"]
        (folder / "adapter_config.json").write_text((source / "adapter_config.json").read_text())
        random = torch.Generator().manual_seed(index)
        tensors = {}
        for key, tensor in load_file(source / "adapter_model.safetensors").items():
            fresh = torch.randn(tensor.shape, generator=random) * (0.05 if "lora_A" in key else 0.4)
            if "lora_A" in key:
                fresh[0] *= 12
            tensors[key] = fresh
        save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
        made[name] = folder
    return made


class Sets:
    """Writes expert sets of the three skills and brings them into an engine."""

    def __init__(self, root: Path, skills: dict[str, Path]) -> None:
        self.root, self.skills = root, skills
        self.by_digest = {hashlib.sha256(name.encode()).hexdigest(): path for name, path in skills.items()}
        self.written = 0

    def write(self, router: dict[str, Any], tensors: dict[str, Any] | None = None, **entries: dict[str, Any]) -> Path:
        """A folder of an expert set; `entries` are the fields of a skill beside its name and its digest."""
        self.written += 1
        folder = self.root / f"set-{self.written}"
        folder.mkdir()
        experts = [
            {"name": name, "adapter": digest, **entries.get(name, {})}
            for digest, name in zip(self.by_digest, self.skills, strict=True)
        ]
        (folder / "experts.json").write_text(json.dumps({"format": FORMAT, "experts": experts, "router": router}))
        if tensors:
            save_file({key: torch.as_tensor(value) for key, value in tensors.items()}, folder / "experts.safetensors")
        return folder

    def acquire(self, engine: Engine, folder: Path, task: str | None = None) -> Lease:
        digest = selection_digest(hashlib.sha256(folder.name.encode()).hexdigest(), task)
        experts = load_expert_set(folder, lambda member: load_lora(self.by_digest[member]))
        return engine.residency.acquire(
            digest, lambda: lower_experts(experts, task, torch.float32, torch.device("cpu")), name=folder.name
        )


@pytest.fixture
def sets(tmp_path: Path, skills: dict[str, Path]) -> Sets:
    return Sets(tmp_path, skills)


@pytest.fixture
def engine(family_of: Callable[[str], Any], engine_of: Any) -> Engine:
    made: Engine = engine_of(family_of("llama"), adapter_rank_rows=ROWS)
    return made


def answers(engine: Engine, asked: list[tuple[list[int], Lease | None]]) -> list[list[int]]:
    """Greedy tokens of requests that the engine computes together."""
    sampling = Sampling(max_tokens=TOKENS, temperature=0, ignore_eos=True)
    running = [engine.submit(Request(list(prompt), sampling, lease)) for prompt, lease in asked]
    while not all(generation.done for generation in running):
        engine.step()
    return [generation.result().token_ids for generation in running]


def greedy(model: Any, prompt: list[int]) -> list[int]:
    ids = torch.tensor([prompt])
    options = {"max_new_tokens": TOKENS, "do_sample": False, "pad_token_id": 258, "eos_token_id": None}
    out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **options)
    return [int(token) for token in out[0, len(prompt) :]]


def base_model(base: Path) -> Any:
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return model.eval()


def merged(base: Path, skills: dict[str, Path], weights: Callable[[str, str], float]) -> Any:
    """transformers' model with sum_e weights(e, module) * delta_e added to every weight."""
    model = base_model(base)
    adapters: dict[str, LoraAdapter] = {name: load_lora(path) for name, path in skills.items()}
    modules = dict(model.named_modules())
    with torch.no_grad():
        for name, adapter in adapters.items():
            for module in adapter.modules:
                delta = torch.from_numpy(adapter.delta(module))
                modules[module].weight += weights(name, module) * delta
    return model


@pytest.fixture(scope="module")
def arrow(family_of: Callable[[str], Any], skills: dict[str, Path]) -> list[list[int]]:
    """What PEFT's Arrow model answers to the prompts."""
    config = ArrowConfig(top_k=2, router_temperature=0.8, rng_seed=1)
    model: Any = create_arrow_model(
        base_model(family_of("llama").base), [str(path) for path in skills.values()], arrow_config=config
    )
    model.train(False)
    return [greedy(model, prompt) for prompt in PROMPTS]


ARROW = {"kind": "arrow", "top_k": 2, "temperature": 0.8}


def test_arrow_answers_token_by_token_as_pefts(engine: Engine, sets: Sets, arrow: list[list[int]]) -> None:
    folder = sets.write(ARROW)
    assert answers(engine, [(prompt, sets.acquire(engine, folder)) for prompt in PROMPTS]) == arrow
    dense = sets.write({**ARROW, "top_k": 3})
    assert answers(engine, [(prompt, sets.acquire(engine, dense)) for prompt in PROMPTS]) != arrow
    assert answers(engine, [(prompt, None) for prompt in PROMPTS]) != arrow


def test_a_mixed_batch_answers_each_as_it_answers_alone(
    family_of: Callable[[str], Any], engine: Engine, sets: Sets, skills: dict[str, Path], arrow: list[list[int]]
) -> None:
    """The base, a plain adapter, a mixture, a fixed set, a task and a routed set in the same steps."""
    family = family_of("llama")
    fixed = sets.write({"kind": "fixed"}, sum={"weight": 0.5}, code={"weight": -0.25}, chat={"weight": 0.75})
    table = sets.write({"kind": "task-table", "tasks": {"a": [0.2, 0.8, 0.0], "b": [1.0, 1.0, -1.0]}})
    routed = sets.write(ARROW)
    mix = {"sum": 0.5, "code": -0.25, "chat": 0.75}
    tasks = {"sum": 1.0, "code": 1.0, "chat": -1.0}
    expected = [
        greedy(base_model(family.base), PROMPTS[0]),
        family.greedy("attention", PROMPTS[1], TOKENS, ignore_eos=True),
        greedy(merged(family.base, skills, lambda name, _: mix[name]), PROMPTS[2]),
        greedy(merged(family.base, skills, lambda name, _: tasks[name]), PROMPTS[0]),
        arrow[1],
        arrow[2],
        greedy(merged(family.base, skills, lambda name, _: {"sum": 1.5, "code": 0.0, "chat": -0.5}[name]), PROMPTS[1]),
    ]
    blend = weighted_sum([load_lora(skills["sum"]), load_lora(skills["chat"])], [1.5, -0.5])
    asked = [
        (PROMPTS[0], None),
        (PROMPTS[1], family.pin(engine, "attention")),
        (PROMPTS[2], sets.acquire(engine, fixed)),
        (PROMPTS[0], sets.acquire(engine, table, "b")),
        (PROMPTS[1], sets.acquire(engine, routed)),
        (PROMPTS[2], sets.acquire(engine, routed)),
        (PROMPTS[1], engine.residency.acquire("f" * 64, lambda: lower_lora(blend.modules, torch.float32))),
    ]
    assert answers(engine, asked) == expected


def test_a_request_is_routed_once_by_its_prompt(
    family_of: Callable[[str], Any], engine: Engine, sets: Sets, skills: dict[str, Path], arrow: list[list[int]]
) -> None:
    """Scores averaged over the prompt in the base, weighed once: the same as those weights merged into the model."""
    family = family_of("llama")
    folder = sets.write({**ARROW, "granularity": "request"})
    leases = [route(engine, sets.acquire(engine, folder), prompt) for prompt in PROMPTS]
    assert len({lease.resident.digest for lease in leases}) == len(PROMPTS)
    assert {lease.resident.adapter for lease in leases} == {hashlib.sha256(folder.name.encode()).hexdigest()}
    assert {lease.resident.start for lease in leases} == {leases[0].resident.start}
    found = answers(engine, list(zip(PROMPTS, leases, strict=True)))
    for prompt, answer in zip(PROMPTS, found, strict=True):
        weights = arrow_weights(base_model(family.base), skills, prompt)
        model = merged(family.base, skills, lambda name, module, w=weights: w[module][name])  # type: ignore[misc]
        assert answer == greedy(model, prompt)
    assert found != arrow
    assert engine.residency.pins(hashlib.sha256(folder.name.encode()).hexdigest()) == 0


def arrow_weights(model: Any, skills: dict[str, Path], prompt: list[int]) -> dict[str, dict[str, float]]:
    """Softmax of the two largest mean |<v, x>| / 0.8 over the prompt's tokens, by module, in float64."""
    adapters = {name: load_lora(path) for name, path in skills.items()}
    inputs: dict[str, np.ndarray[Any, Any]] = {}

    def keep(module: str) -> Callable[..., None]:
        def hook(_: Any, args: Any, __: Any) -> None:
            inputs[module] = args[0][0].double().numpy()

        return hook

    modules = dict(model.named_modules())
    for module in adapters["sum"].modules:
        modules[module].register_forward_hook(keep(module))
    with torch.no_grad():
        model(torch.tensor([prompt]))
    weights = {}
    for module, x in inputs.items():
        scores = {}
        for name, adapter in adapters.items():
            vector = np.linalg.svd(adapter.delta(module).astype(np.float64))[2][0]
            scores[name] = float(np.abs(x @ vector).mean()) / 0.8
        best = sorted(scores.values())[-2:]
        powers = {name: np.exp(score - best[-1]) if score in best else 0.0 for name, score in scores.items()}
        weights[module] = {name: power / sum(powers.values()) for name, power in powers.items()}
    return weights


def test_a_router_for_the_whole_set_reads_the_last_hidden_states(
    family_of: Callable[[str], Any], engine: Engine, sets: Sets, skills: dict[str, Path]
) -> None:
    """Twin-Merging: softmax(MLP(mean last hidden state)) weighs every module of an expert."""
    family, random = family_of("llama"), torch.Generator().manual_seed(3)
    tensors = {
        "router.0.weight": torch.randn((9, 64), generator=random),
        "router.0.bias": torch.randn(9, generator=random),
        "router.1.weight": torch.randn((3, 9), generator=random),
    }
    folder = sets.write({"kind": "linear", "scope": "set", "granularity": "request"}, tensors)
    model = base_model(family.base)
    for prompt in PROMPTS[:2]:
        with torch.no_grad():
            hidden = model.model(torch.tensor([prompt])).last_hidden_state[0].double().mean(dim=0)
        inner = torch.nn.functional.leaky_relu(tensors["router.0.weight"].double() @ hidden + tensors["router.0.bias"])
        weights = dict(zip(skills, torch.softmax(tensors["router.1.weight"].double() @ inner, 0).tolist(), strict=True))
        lease = route(engine, sets.acquire(engine, folder), prompt)
        expected = greedy(merged(family.base, skills, lambda name, _, w=weights: w[name]), prompt)  # type: ignore[misc]
        assert answers(engine, [(prompt, lease)]) == [expected]


def test_until_it_is_routed_a_set_router_weighs_all_alike(
    family_of: Callable[[str], Any], engine: Engine, sets: Sets, skills: dict[str, Path]
) -> None:
    tensors = {"router.0.weight": torch.randn(3, 64)}
    lease = sets.acquire(engine, sets.write({"kind": "linear", "scope": "set", "granularity": "request"}, tensors))
    expected = greedy(merged(family_of("llama").base, skills, lambda *_: 1 / 3), PROMPTS[0])
    assert answers(engine, [(PROMPTS[0], lease)]) == [expected]


def test_routing_again_gives_the_same_digest_and_releases_on_failure(engine: Engine, sets: Sets) -> None:
    folder = sets.write({**ARROW, "granularity": "request"})
    digest = hashlib.sha256(folder.name.encode()).hexdigest()
    leases = [route(engine, sets.acquire(engine, folder), PROMPTS[0]) for _ in range(2)]
    assert leases[0].resident.digest == leases[1].resident.digest != digest
    assert all(isinstance(gate, FixedGate) for gate in leases[0].resident.gates.values())
    for lease in leases:
        lease.release()
    with pytest.raises(Exception, match="it has no tokens"):
        route(engine, sets.acquire(engine, folder), [])
    assert engine.residency.pins(digest) == 0


def test_output_scaling_and_deactivated_layers_are_those_of_the_deltas(
    family_of: Callable[[str], Any], engine: Engine, sets: Sets, skills: dict[str, Path]
) -> None:
    """ScaLearn: sum_t diag(omega_t) delta_t. S3T: an adapter without the layers from `k` on."""
    adapters = {name: load_lora(path) for name, path in skills.items()}
    random = torch.Generator().manual_seed(4)
    omega = {
        f"scaling.{module}": torch.randn((3, len(factors.b)), generator=random)
        for module, factors in adapters["sum"].modules.items()
        if "v_proj" in module
    }
    whole = torch.tensor([0.4, 1.0, -0.6])
    folder = sets.write({"kind": "fixed"}, {**omega, "scaling": whole}, code={"deactivate": "1-"}, chat={"weight": 2})
    model = base_model(family_of("llama").base)
    modules = dict(model.named_modules())
    with torch.no_grad():
        for index, (name, adapter) in enumerate(adapters.items()):
            for module in adapter.modules:
                if name == "code" and ".layers.0." not in module:
                    continue
                scaling = omega[f"scaling.{module}"][index][:, None] if "v_proj" in module else whole[index]
                weight = 2 if name == "chat" else 1
                modules[module].weight += weight * scaling * torch.from_numpy(adapter.delta(module))
    assert answers(engine, [(PROMPTS[0], sets.acquire(engine, folder))]) == [greedy(model, PROMPTS[0])]


@pytest.mark.parametrize(
    ("router", "tensors"),
    [
        ({"kind": "fixed"}, {"scaling.model.layers.0.self_attn.v_prj": torch.ones(3)}),
        ({"kind": "linear"}, {"router.model.layers.9.self_attn.v_proj.weight": torch.ones(3, 32)}),
    ],
)
def test_a_tensor_of_a_module_that_no_expert_changes_is_refused(
    engine: Engine, sets: Sets, router: dict[str, Any], tensors: dict[str, torch.Tensor]
) -> None:
    with pytest.raises(InvalidExpertSet, match=f"the tensor '{next(iter(tensors))}' is of a module that no expert"):
        sets.acquire(engine, sets.write(router, tensors))
