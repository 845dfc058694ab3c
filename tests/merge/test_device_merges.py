"""Merges on a device give the processor's bytes; without a GPU the device is torch's tensors in host memory."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from graftwork.errors import InvalidSetting, NonFiniteTensor
from graftwork.kernels.dispatch import Kernel
from graftwork.merge.output.journal import Journal
from graftwork.merge.plan.plan import Plan, plan
from graftwork.merge.run.folder.folder import write_folder
from graftwork.merge.slices.slices import GRAIN
from graftwork.settings import Settings, load_settings

HOST = "cpu:0"
"""A device that torch has everywhere: the device's pipeline over torch tensors in host memory."""
DEVICES = [HOST, pytest.param("cuda", marks=pytest.mark.gpu)]
LINES = {"modifiers": [{"lines": {"alpha": "auto", "beta": 0.5}}, {"consensus": {"min_agree": 2}}]}
MERGES: list[tuple[str, dict[str, Any]]] = [
    ("task_arithmetic", {}),
    ("task_arithmetic", LINES),
    ("ties", {"parameters": {"density": 0.2, "variant": "paper"}, **LINES}),
    ("consensus_ties", {}),
    ("model_stock", {"parameters": {"filter_wise": True}}),
    ("dare_linear", {"parameters": {"density": 0.5}, "compat": "mergekit"}),
    ("della", {"parameters": {"density": 0.5, "epsilon": 0.1}, "compat": "mergekit"}),
]
MEMORIES = (500_000_000, 24_000_000, 12_000_000)
"""Tensors of the workbench are merged by one thread, or held and shared by threads, or read for every pass."""


@pytest.fixture(autouse=True)
def _short_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graftwork.merge.device.LONGEST_SLICE", GRAIN)


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return {name: x.tobytes() for name, x in one.items()} == {name: x.tobytes() for name, x in other.items()}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("method", "more"), MERGES)
def test_modifiers_and_variants_have_the_same_bytes_on_a_device(
    bench: Any, method: str, more: dict[str, Any], device: str
) -> None:
    paths, _ = bench.family(3, "BF16")
    recipe = bench.recipe(method, paths, **more)
    expected = bench.merge(recipe, "on the CPU")
    for memory in MEMORIES:
        assert same(bench.merge(recipe, f"{memory}", device=device, memory=memory), expected), memory


@pytest.mark.parametrize("device", DEVICES)
def test_a_merge_begun_on_a_device_and_killed_goes_on_elsewhere(
    bench: Any, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, _ = bench.family(2, "F32")
    recipe = bench.recipe("ties", paths, parameters={"density": 0.2})
    expected = bench.merge(recipe, "undisturbed")

    def planned(device: str) -> Plan:
        found = plan(recipe, settings=Settings(threads=1, memory=12_000_000, device=device))
        assert isinstance(found, Plan)
        return found

    add, seen = Journal.add, []

    def die(self: Journal, spans: Any) -> None:
        add(self, spans)
        seen.append(spans)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "add", die)
        with pytest.raises(KeyboardInterrupt):
            write_folder(planned(device), bench.root / "merged", keep=lambda: True)
    assert 0 < len(seen) < len(expected)
    write_folder(planned("cpu"), bench.root / "merged")
    assert same(bench.read(bench.root / "merged"), expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("memory", MEMORIES)
def test_a_broken_input_is_named_as_on_the_cpu(bench: Any, device: str, memory: int) -> None:
    _, weights = bench.family(1)
    broken = {name: values.copy() for name, values in weights[1].items()}
    broken["model.layers.2.mlp.weight"][200, 7] = np.nan
    paths = [str(bench.root / "model-0"), bench.write("broken", broken), str(bench.root / "model-1")]
    recipe = bench.recipe("ties", paths, parameters={"density": 0.5})
    sentences = []
    for where in ("cpu", device):
        with pytest.raises(NonFiniteTensor) as refused:
            bench.merge(recipe, where, device=where, memory=memory)
        sentences.append(str(refused.value))
    assert sentences[0] == sentences[1]
    assert "broken holds 1 NaN" in sentences[0]
    assert not (bench.root / device).exists()


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed (the extra 'gpu')")
@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU the merges above run Triton's kernels on it")
@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("ties", {"density": 0.2}),
        ("ties", {"density": 0.2, "variant": "paper"}),
        ("breadcrumbs", {"density": 0.5, "gamma": 0.1}),
        ("della", {"density": 0.5, "epsilon": 0.1}),
        ("sce", {"select_topk": 0.4}),
        ("ramplus_tl", {"epsilon": 0.01}),
        ("model_stock", {}),
        ("model_stock", {"filter_wise": True}),
    ],
)
def test_interpreted_triton_kernels_merge_to_the_same_bytes(
    bench: Any, method: str, parameters: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    base = {"model.layers.0.weight": random.normal(size=(12, 30)), "model.norm.weight": random.normal(size=7)}
    family = [base] + [{name: x + 0.02 * random.normal(size=x.shape) for name, x in base.items()} for _ in range(3)]
    paths = [
        bench.write(f"small-{number}", {name: x.astype(np.float32) for name, x in model.items()})
        for number, model in enumerate(family)
    ]
    recipe = bench.recipe(method, paths, parameters=parameters)
    expected = bench.merge(recipe, "native")
    choice, chosen = Kernel.choice, []

    def as_on_a_gpu(self: Kernel[..., Any], *arguments: object) -> str:
        if not any(isinstance(value, torch.Tensor) for argument in arguments for value in flat(argument)):
            return choice(self, *arguments)
        chosen.append("fused" if self.has_fused else "reference")
        return chosen[-1]

    monkeypatch.setattr(Kernel, "choice", as_on_a_gpu)
    assert same(bench.merge(recipe, "interpreted", device=HOST), expected)
    assert "fused" in chosen


def flat(value: object) -> list[object]:
    return [item for part in value for item in flat(part)] if isinstance(value, list | tuple) else [value]


def refusal(name: str, tmp_path: Path, bench: Any) -> str:
    paths, _ = bench.family(1)
    with pytest.raises(InvalidSetting) as refused:
        bench.merge(bench.recipe("linear", paths, base=False), device=name)
    assert not any(path.name.startswith("merged") for path in tmp_path.iterdir())
    return str(refused.value)


def test_a_torch_without_cuda_is_said(bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: False)
    said = f"The setting device is 'cuda': expected cpu, since this torch ({torch.__version__}) was built without CUDA."
    assert refusal("cuda", tmp_path, bench) == said


@pytest.mark.parametrize(
    ("count", "expected"), [(0, "cpu, since torch finds no GPU on this machine"), (2, "cpu or one of cuda:0, cuda:1")]
)
def test_a_gpu_that_is_not_there_is_said(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, expected: str
) -> None:
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    assert refusal("cuda:2", tmp_path, bench) == f"The setting device is 'cuda:2': expected {expected}."


def test_a_device_is_called_as_torch_calls_it(bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFTWORK_DEVICE", "cuda:1")
    assert load_settings().device == "cuda:1"
    monkeypatch.setenv("GRAFTWORK_DEVICE", "gpu")
    with pytest.raises(InvalidSetting, match="expected cpu, cuda, or one of several GPUs such as cuda:1"):
        load_settings()
    assert "such as cuda:1" in refusal("gpu", tmp_path, bench)
