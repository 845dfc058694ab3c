"""Tokens per second of the embedded engine: base alone, 1 and 8 adapters in one batch, against transformers' generate.

`python -m benchmarks.serving.throughput [--dtype bfloat16] [--requests 64] [--threads 1]`

Everything runs in one process, one way after the other, several rounds; on a shared machine only the ratios mean
anything. Weights are random, prompts and completions ragged, decoding greedy. generate runs left-padded batches of as
many requests as the engine has places, until the longest of each is done, and is credited with the tokens asked for.
"""

from __future__ import annotations

import itertools
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from peft import LoraConfig, get_peft_model
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from graftwork.adapters.engine.engine import Engine
from graftwork.adapters.engine.sequence import Request, Sampling
from graftwork.settings import Settings

VOCABULARY = 8192
PLACES = 32
ADAPTERS = 8


@dataclass(frozen=True, slots=True)
class Asked:
    """One request."""

    prompt: list[int]
    tokens: int


def build_family(root: Path, dtype: torch.dtype) -> tuple[Path, list[Path]]:
    """A random Llama of hidden size 512 and adapters of rank 16 on all of its linear layers."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=512,
        intermediate_size=1536,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=2048,
    )
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)  # type: ignore[no-untyped-call]
    model.save_pretrained(root / "base")
    words = {f"w{index}": index for index in range(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, "w0"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(root / "base")  # type: ignore[no-untyped-call]
    adapted: Any = get_peft_model(model, LoraConfig(r=16, lora_alpha=16, target_modules="all-linear"))
    folders = []
    for index in range(ADAPTERS):
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if "lora_" in name:
                    parameter.normal_(0, 0.02)
        adapted.save_pretrained(root / f"adapter{index}", save_embedding_layers=False)
        folders.append(root / f"adapter{index}")
    return root / "base", folders


def build_requests(count: int, turn: int) -> list[Asked]:
    """Ragged requests, always of the same lengths, with other tokens each turn: no prefix is found in a cache."""
    lengths, tokens = random.Random(0), random.Random(turn)
    return [
        Asked([tokens.randrange(VOCABULARY) for _ in range(lengths.randint(8, 128))], lengths.randint(16, 96))
        for _ in range(count)
    ]


def run_engine(engine: Engine, requests: list[Asked], adapters: list[Path]) -> int:
    """All requests through the engine, their adapters in turn; the tokens that came out."""
    generations = []
    for index, asked in enumerate(requests):
        sampling = Sampling(max_tokens=asked.tokens, temperature=0, ignore_eos=True)
        folder = adapters[index % len(adapters)] if adapters else None
        lease = engine.residency.acquire(folder.name, folder) if folder else None
        generations.append(engine.submit(Request(asked.prompt, sampling, lease)))
    while engine.step():
        pass
    return sum(generation.result().completion_tokens for generation in generations)


@torch.inference_mode()
def run_generate(model: Any, requests: list[Asked]) -> int:
    """All requests through transformers' generate, in static batches."""
    for first in range(0, len(requests), PLACES):
        batch = requests[first : first + PLACES]
        width = max(len(asked.prompt) for asked in batch)
        ids = torch.tensor([[0] * (width - len(asked.prompt)) + asked.prompt for asked in batch])
        mask = torch.tensor([[0] * (width - len(asked.prompt)) + [1] * len(asked.prompt) for asked in batch])
        longest = max(asked.tokens for asked in batch)
        model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=longest,
            min_new_tokens=longest,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=None,
        )
    return sum(asked.tokens for asked in requests)


@click.command(help=__doc__.splitlines()[0])
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True)
@click.option("--requests", "count", type=click.IntRange(1), default=64, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
def main(dtype: str, count: int, rounds: int, threads: int) -> None:
    """Measure and print one table."""
    torch.set_num_threads(threads)
    turns = itertools.count()
    with tempfile.TemporaryDirectory() as folder:
        base, adapters = build_family(Path(folder), getattr(torch, dtype))
        engine = Engine.load(base, Settings(home=Path(folder), max_sequences=PLACES, max_model_tokens=512))
        model = AutoModelForCausalLM.from_pretrained(base)
        ways: dict[str, Callable[[list[Asked]], int]] = {
            "transformers generate": lambda requests: run_generate(model, requests),
            "engine, base": lambda requests: run_engine(engine, requests, []),
            "engine, 1 adapter": lambda requests: run_engine(engine, requests, adapters[:1]),
            f"engine, {ADAPTERS} adapters": lambda requests: run_engine(engine, requests, adapters),
        }
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, way in ways.items():
                requests = build_requests(count, next(turns))
                started = time.process_time()
                tokens = way(requests)
                rates[name].append(tokens / (time.process_time() - started))
    show({name: statistics.median(values) for name, values in rates.items()})


def show(rates: dict[str, float]) -> None:
    """Print rates beside their ratio to generate and to the engine's base."""
    table = Table("", "tokens per CPU second", "of generate", "of own base")
    for name, rate in rates.items():
        of_generate, of_base = rate / rates["transformers generate"], rate / rates["engine, base"]
        table.add_row(name, f"{rate:.0f}", f"{of_generate:.2f}", f"{of_base:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
