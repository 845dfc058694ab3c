"""PEFT's factor-wise modes, against PEFT itself."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.numpy import load_file

from graftwork.errors import InvalidRecipe
from graftwork.merge.recipe.recipe import load_recipe
from graftwork.merge.run.run import merge
from graftwork.settings import Settings


class Small(torch.nn.Module):
    """Two linear layers for PEFT to adapt."""

    def __init__(self) -> None:
        super().__init__()
        self.q = torch.nn.Linear(9, 7, bias=False)
        self.down = torch.nn.Linear(7, 12, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.down(self.q(x))
        return out


ADAPTERS: list[tuple[str, int, list[str]]] = [
    ("one", 6, ["q", "down"]),
    ("two", 3, ["q", "down"]),
    ("three", 5, ["q"]),
]


@pytest.fixture(scope="module")
def peft_family(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PeftModel]:
    """Three PEFT adapters of one rank, of different scales and targets: their folders, and a model with all of them."""
    root = tmp_path_factory.mktemp("peft")
    torch.manual_seed(0)
    model: Any = None
    for name, alpha, targets in ADAPTERS:
        config = LoraConfig(r=4, lora_alpha=alpha, target_modules=targets)
        if model is None:
            model = get_peft_model(Small(), config, adapter_name=name)
        else:
            model.add_adapter(name, config)
        with torch.no_grad():
            for parameter_name, parameter in model.named_parameters():
                if f".{name}." in parameter_name:
                    parameter.normal_()
    save(model, root)
    return root, model


def save(model: PeftModel, root: Path, **options: Any) -> None:
    """As PEFT saves it, without the name of this module, which it notes as the one to import the model from."""
    model.save_pretrained(str(root), **options)
    for path in root.rglob("adapter_config.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_mapping": None}))


@pytest.mark.parametrize("names", [("one", "two"), ("one", "two", "three"), ("two",)])
@pytest.mark.parametrize(
    ("mode", "parameters"),
    [
        ("linear", {}),
        ("ties", {"density": 0.4}),
        ("ties", {"density": 0.7, "majority_sign_method": "frequency"}),
        ("magnitude_prune", {"density": 0.3}),
        ("dare_linear", {"density": 1.0}),
        ("dare_ties", {"density": 1.0}),
    ],
)
def test_factor_wise_modes_are_pefts_bit_for_bit(
    peft_family: tuple[Path, PeftModel], tmp_path: Path, names: tuple[str, ...], mode: str, parameters: dict[str, Any]
) -> None:
    root, model = peft_family
    given = [0.7, -1.3, 2.0][: len(names)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's, for a density of 1
        model.add_weighted_adapter(list(names), given, "merged", combination_type=mode, **parameters)
    expected = {
        name.removeprefix("base_model.model.").replace(".merged", ""): parameter.detach().numpy().copy()
        for name, parameter in model.named_parameters()
        if ".merged." in name
    }
    model.delete_adapter("merged")
    models = [
        {"model": str(root / name), "parameters": {"weight": weight}} for name, weight in zip(names, given, strict=True)
    ]
    recipe = load_recipe({"merge_method": f"lora_factors_{mode}", "models": models, "parameters": parameters})
    tensors = load_file(merge(recipe, out=tmp_path / "out", settings=Settings()) / "adapter_model.safetensors")
    got = {name.removeprefix("base_model.model."): values for name, values in tensors.items()}
    assert got.keys() == expected.keys()
    for name, values in expected.items():
        assert np.array_equal(got[name], values), name


@pytest.mark.parametrize("mode", ["dare_linear", "dare_ties"])
def test_factors_are_dropped_at_random_as_the_density_says(
    peft_family: tuple[Path, PeftModel], tmp_path: Path, mode: str
) -> None:
    root, _ = peft_family
    models = [{"model": str(root / name)} for name in ("one", "two")]
    files = []
    for out, seed in (("first", 5), ("again", 5), ("other", 6)):
        parameters = {"density": 0.25}
        recipe = load_recipe(
            {"merge_method": f"lora_factors_{mode}", "models": models, "seed": seed, "parameters": parameters}
        )
        files.append(load_file(merge(recipe, out=tmp_path / out, settings=Settings()) / "adapter_model.safetensors"))
    values = [np.concatenate([tensor.ravel() for tensor in tensors.values()]) for tensors in files]
    assert np.array_equal(values[0], values[1])
    assert not np.array_equal(values[0], values[2])
    assert abs((values[0] == 0).mean() - 0.75**2) < 0.12
    if mode == "dare_linear":
        inputs = [load_file(root / name / "adapter_model.safetensors") for name in ("one", "two")]
        for name, merged in files[0].items():
            a, b = (4 * root * t[name].ravel() for root, t in zip((1.5**0.5, 0.75**0.5), inputs, strict=True))
            choices = np.stack([0 * a, a, b, a + b])
            assert (np.abs(choices - merged.ravel()).min(axis=0) < 1e-5).all()


def test_factors_of_different_ranks_are_refused(peft_family: tuple[Path, PeftModel], tmp_path: Path) -> None:
    root, model = peft_family
    model.add_adapter("wide", LoraConfig(r=5, target_modules=["q"]))
    save(model, tmp_path, selected_adapters=["wide"])
    model.delete_adapter("wide")
    models = [{"model": str(root / "one")}, {"model": str(tmp_path / "wide")}]
    recipe = load_recipe({"merge_method": "lora_factors_linear", "models": models})
    with pytest.raises(InvalidRecipe, match=r"the module q: .*ranks are equal, and they are 4, 5"):
        merge(recipe, out=tmp_path / "out", settings=Settings())
