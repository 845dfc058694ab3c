"""Formats that PEFT does not know, against float64 formulas written here: LoTR, NLoRA, Hydra, KaSA's own, S2FT."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from graftwork.adapters.engine.sequence import Request, Sampling
from graftwork.adapters.variants.variant import read_variant
from graftwork.adapters.weights import ModelWeights
from graftwork.errors import IncompatibleAdapter
from graftwork.registry.formats.checkpoint import read_checkpoint
from graftwork.registry.formats.peft import check_against_base, read_adapter
from graftwork.testing.formats import write_folder

if TYPE_CHECKING:
    from tests.adapters.conftest import EngineFactory, Family

MODULES = {
    "llama": [f"model.layers.{layer}.{name}" for layer in (0, 2) for name in ("self_attn.v_proj", "mlp.down_proj")],
    "gpt2": [f"transformer.h.{layer}.{name}" for layer in (0, 1) for name in ("attn.c_attn", "mlp.c_proj")],
}
R = 3


@dataclass(frozen=True)
class Module:
    """A linear layer of the base in float64: weight [out, in], bias [out]."""

    weight: Tensor
    bias: Tensor | None


Made = tuple[dict[str, object], dict[str, Tensor], Callable[[Module], tuple[Tensor, Tensor | None]]]
"""The configuration's options, one module's tensors, and its new weight and bias, in float64."""


def noise(random: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=random) * 0.25


def lotr(random: torch.Generator, out: int, width: int) -> Made:
    lhs, mid, rhs = noise(random, R, out), noise(random, R, R), noise(random, width, R)

    def truth(base: Module) -> tuple[Tensor, Tensor | None]:
        return base.weight + 2.5 / R * (rhs.double() @ mid.double() @ lhs.double()).T, base.bias

    options = {"graftwork_type": "LOTR", "scale": 2.5}
    return options, {"lotr.lhs": lhs, "lotr.mid": mid, "lotr.rhs": rhs}, truth


def nlora(random: torch.Generator, out: int, width: int) -> Made:
    a, n, b = noise(random, R, width), noise(random, R, R), noise(random, out, R)

    def truth(base: Module) -> tuple[Tensor, Tensor | None]:
        return base.weight + 6 / R * b.double() @ n.double() @ a.double(), base.bias

    options = {"peft_type": "LORA", "r": R, "lora_alpha": 6, "init_lora_weights": "n_lora", "target_modules": r".*"}
    return options, {"lora_A.weight": a, "lora_N.weight": n, "lora_B.weight": b}, truth


def kasa(random: torch.Generator, out: int, width: int) -> Made:
    a, d, b = noise(random, R, width), noise(random, R), noise(random, out, R)

    def truth(base: Module) -> tuple[Tensor, Tensor | None]:
        u, s, vt = torch.linalg.svd(base.weight, full_matrices=False)
        kept = width - R
        truncated = u[:, :kept] @ torch.diag(s[:kept]) @ vt[:kept]
        return truncated + 6 / R * b.double() @ torch.diag(d.double()) @ a.double(), base.bias

    options = {"peft_type": "LORA", "r": R, "lora_alpha": 6, "target_modules": r".*"}
    return options, {"lora_A.weight": a, "lora_diag": d, "lora_B.weight": b}, truth


def hydra(random: torch.Generator, out: int, width: int) -> Made:
    names = ("down_proj.weight", "down_proj.bias", "up_proj.weight", "up_proj.bias")
    par = dict(zip(names, [noise(random, *s) for s in ((2, width), (2,), (out, 2), (out,))], strict=True))
    seq = dict(zip(names, [noise(random, *s) for s in ((R, out), (R,), (out, R), (out,))], strict=True))
    learned = torch.tensor([0.75])

    def branch(tensors: dict[str, Tensor], weight: Tensor, bias: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        down, down_bias, up, up_bias = (tensors[name].double() for name in names)
        return scale * up @ down @ weight, scale * (up @ (down @ bias + down_bias) + up_bias)

    def truth(base: Module) -> tuple[Tensor, Tensor | None]:
        bias = torch.zeros(out, dtype=torch.float64) if base.bias is None else base.bias
        parallel = branch(par, torch.eye(width, dtype=torch.float64), torch.zeros(width, dtype=torch.float64), 1.5)
        sequential = branch(seq, base.weight, bias, 0.75)
        return base.weight + parallel[0] + sequential[0], bias + parallel[1] + sequential[1]

    tensors = {f"adapter_par.{name}": tensor for name, tensor in par.items()}
    tensors |= {f"adapter_seq.{name}": tensor for name, tensor in seq.items()} | {"adapter_seq.scale": learned}
    return {"graftwork_type": "HYDRA", "scale": 1.5}, tensors, truth


def s2ft(random: torch.Generator, out: int, width: int) -> Made:
    rows = torch.randperm(out, generator=random)[:5].sort().values.int()
    columns = torch.randperm(width, generator=random)[:4].sort().values.int()
    down, across = noise(random, 5, width), noise(random, out, 4)

    def truth(base: Module) -> tuple[Tensor, Tensor | None]:
        weight = base.weight.clone()
        for index, row in zip(rows.tolist(), down.double(), strict=True):
            weight[index] += row
        for index, column in zip(columns.tolist(), across.double().T, strict=True):
            weight[:, index] += column
        return weight, base.bias

    tensors = {"s2ft_row_indices": rows, "s2ft_rows": down, "s2ft_column_indices": columns, "s2ft_columns": across}
    return {"graftwork_type": "S2FT"}, tensors, truth


FORMATS = {"lotr": lotr, "nlora": nlora, "kasa": kasa, "hydra": hydra, "s2ft": s2ft}
CASES = [
    (architecture, name) for architecture in MODULES for name in FORMATS if (architecture, name) != ("gpt2", "kasa")
]


def module_of(model: Any, name: str) -> Module:
    found = model.get_submodule(name)
    weight = found.weight.detach().double()
    bias = None if found.bias is None else found.bias.detach().double()
    return Module(weight.T if isinstance(found, Conv1D) else weight, bias)


def write(base: Path, folder: Path, architecture: str, name: str) -> tuple[Path, Any, dict[str, Tensor]]:
    """The adapter's folder, the base with the formula's weights, and these as changes [out, in]."""
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    random = torch.Generator().manual_seed(11)
    config: dict[str, object] = {}
    tensors: dict[str, Tensor] = {}
    deltas = {}
    for module in MODULES[architecture]:
        before = module_of(model, module)
        config, parts, truth = FORMATS[name](random, *before.weight.shape)
        tensors |= {f"{module}.{role}": tensor for role, tensor in parts.items()}
        weight, bias = truth(before)
        deltas[module] = weight - before.weight
        found = model.get_submodule(module)
        with torch.no_grad():
            found.weight.copy_(weight.T if isinstance(found, Conv1D) else weight)
            if bias is not None:
                found.bias = torch.nn.Parameter(bias.float())
    config |= {"fan_in_fan_out": architecture == "gpt2"}
    return write_folder(folder, config, tensors), model.eval(), deltas


@pytest.mark.parametrize(("architecture", "name"), CASES)
def test_tokens_and_changes_are_those_of_the_formula(
    architecture: str, name: str, family_of: Callable[[str], Family], engine_of: EngineFactory, tmp_path: Path
) -> None:
    family = family_of(architecture)
    folder, truth, deltas = write(family.base, tmp_path / name, architecture, name)
    layout = read_adapter(folder)
    shapes = {key: located.info for key, located in read_checkpoint(family.base).tensors.items()}
    check_against_base(layout, shapes, adapter_name=name, base_name="base")
    original = AutoModelForCausalLM.from_pretrained(family.base, dtype=torch.float32)
    lora = read_variant(layout).to_lora(ModelWeights(original))
    for module, delta in deltas.items():
        w0 = module_of(original, module).weight.numpy()
        np.testing.assert_allclose(read_variant(layout).delta(module, w0), delta.numpy(), rtol=1e-5, atol=2e-6)
        if lora is not None:
            np.testing.assert_allclose(lora.delta(module), delta.numpy(), rtol=1e-4, atol=1e-5)
    assert (lora is None) == (name == "hydra"), "Hydra's biases are no part of a low-rank change"

    engine = engine_of(family, adapter_rank_rows=64)
    digest = hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()
    asked = []
    for prompt in (list(b"one"), list(b"a longer prompt")):
        lease = engine.residency.acquire(digest, folder, name=name)
        greedy = Sampling(max_tokens=10, temperature=0, ignore_eos=True)
        asked.append((prompt, engine.submit(Request(prompt, greedy, lease))))
        asked.append((prompt, engine.submit(Request(prompt, greedy))))
    while engine.step():
        pass
    for (prompt, adapted), (_, plain) in zip(asked[::2], asked[1::2], strict=True):
        ids = torch.tensor([prompt])
        out = truth.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=10, do_sample=False,
                             pad_token_id=258, eos_token_id=None)  # fmt: skip
        assert adapted.result().token_ids == out[0, len(prompt) :].tolist()
        assert adapted.result().token_ids != plain.result().token_ids


def test_lotr_modules_share_outer_factors(family: Family, tmp_path: Path) -> None:
    random = torch.Generator().manual_seed(2)
    first, second = "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"
    config, tensors, _ = lotr(random, 64, 64)
    mid = noise(random, R, R)
    named = {f"{first}.{role}": tensor for role, tensor in tensors.items()} | {f"{second}.lotr.mid": mid}
    folder = write_folder(tmp_path / "lotr", config | {"shared": {"q_proj": first}}, named)
    delta = read_variant(read_adapter(folder)).delta(second, np.zeros((64, 64)))
    expected = 2.5 / R * (tensors["lotr.rhs"].double() @ mid.double() @ tensors["lotr.lhs"].double()).T
    np.testing.assert_allclose(delta, expected.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("indices", "message"),
    [([3, 3], "3 after 3"), ([5, 2], "2 after 5"), ([0, 64], "64 after 0"), ([-1], "-1 after -1")],
)
def test_indices_that_are_not_ascending_rows_of_the_base_are_refused(
    indices: list[int], message: str, family: Family, tmp_path: Path
) -> None:
    module = "model.layers.0.self_attn.q_proj"
    tensors = {
        f"{module}.s2ft_row_indices": torch.tensor(indices, dtype=torch.int32),
        f"{module}.s2ft_rows": torch.ones(len(indices), 64),
    }
    layout = read_adapter(write_folder(tmp_path / "s2ft", {"graftwork_type": "S2FT"}, tensors))
    shapes = {key: located.info for key, located in read_checkpoint(family.base).tensors.items()}
    with pytest.raises(IncompatibleAdapter, match=f"s2ft_row_indices' holds {message}"):
        check_against_base(layout, shapes, adapter_name="a", base_name="b")
