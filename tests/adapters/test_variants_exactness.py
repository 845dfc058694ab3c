"""Every format that PEFT writes, served: a request's tokens are those of PEFT's own model with that adapter alone."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from graftwork.adapters.engine.engine import Engine
from graftwork.adapters.engine.sequence import Generation, Request, Sampling
from graftwork.adapters.residency.lease import Lease
from graftwork.registry.formats.peft import read_adapter
from graftwork.testing.formats import gpt2_formats, llama_formats, qwen2_formats, with_peft, write_peft

if TYPE_CHECKING:
    from tests.adapters.conftest import EngineFactory, Family

FORMATS = {"llama": llama_formats, "gpt2": gpt2_formats, "qwen2": qwen2_formats}
ARCHITECTURES = tuple(FORMATS)
TOKENS = 10
Zoo = Callable[[str], dict[str, Path]]


@pytest.fixture(scope="module")
def zoo_of(family_of: Callable[[str], Family], tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    made: dict[str, dict[str, Path]] = {}

    def zoo(architecture: str) -> dict[str, Path]:
        if architecture not in made:
            root, base = tmp_path_factory.mktemp(architecture), family_of(architecture).base
            made[architecture] = {
                name: write_peft(base, root / name, config, seed=seed)
                for seed, (name, config) in enumerate(FORMATS[architecture]().items())
            }
        return made[architecture]

    return zoo


def pin(engine: Engine, folder: Path) -> Lease:
    digest = hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()
    return engine.residency.acquire(digest, folder, name=folder.name)


def generated(model: Any, prompt: list[int], tokens: int) -> list[int]:
    ids = torch.tensor([prompt])
    out = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=tokens,
        do_sample=False,
        pad_token_id=258,
        eos_token_id=None,
    )
    return [int(token) for token in out[0, len(prompt) :]]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_format_in_one_batch_is_token_exact(
    architecture: str, family_of: Callable[[str], Family], zoo_of: Zoo, engine_of: EngineFactory
) -> None:
    family, zoo = family_of(architecture), zoo_of(architecture)
    engine = engine_of(family, adapter_rank_rows=256, max_sequences=8)
    rng = random.Random(7)
    asked: list[tuple[str, list[int], Generation]] = []
    for index in range(2 * len(zoo)):
        name = list(zoo)[index % len(zoo)]
        prompt = [rng.randrange(256) for _ in range(rng.choice([1, 3, 11, 30]))]
        greedy = Sampling(max_tokens=TOKENS, temperature=0, ignore_eos=True)
        asked.append((name, prompt, engine.submit(Request(prompt, greedy, pin(engine, zoo[name])))))
        for _ in range(rng.randint(0, 2)):
            engine.step()
    while engine.step():
        pass
    models = {name: with_peft(family.base, folder) for name, folder in zoo.items()}
    wrong = [
        name
        for name, prompt, generation in asked
        if generation.result().token_ids != generated(models[name], prompt, TOKENS)
    ]
    assert wrong == []
    said = {name: tuple(generated(model, list(b"a prompt"), TOKENS)) for name, model in models.items()}
    assert len(set(said.values())) == len(said), "adapters that say the same prove nothing"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_tensor_of_every_format_has_a_part(architecture: str, zoo_of: Zoo) -> None:
    for folder in zoo_of(architecture).values():
        layout = read_adapter(folder)
        placed = {info.name for part in layout.parts.values() for info in [*part.tensors.values(), *part.own.values()]}
        assert placed | set(layout.shared) == set(layout.header.tensors), folder.name
