"""PEFT's mixed batch: `generate(adapter_names=...)` on one loaded model, in this process.

Batches are static: left-padded, and computed until the longest of each is done. What was asked is what counts.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, LogitsProcessor, LogitsProcessorList

from benchmarks.serving.case import BASE, Case
from benchmarks.serving.effort import Effort
from benchmarks.serving.family import Family
from benchmarks.serving.measured import Figures, Run, Timeline, cpu_seconds, summarise
from benchmarks.serving.trace import CONCURRENT, Asked


class _Clock(LogitsProcessor):
    """Writes down when each step's logits came, and changes nothing."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        self.times.append(time.perf_counter())
        return scores


def measure(family: Family, cases: Sequence[Case], *, effort: Effort) -> Iterator[tuple[Case, Figures]]:
    """Each case on a model of its own, with exactly its adapters."""
    for case in cases:
        base: Any = AutoModelForCausalLM.from_pretrained(family.base)
        model, load, memory = base.eval(), None, None
        if case != BASE:
            model, load, memory = _adapted(base, family, case)
        runs = effort.runs(case, partial(_run, model))
        yield case, summarise(runs, load=load, memory=memory)


def _adapted(base: Any, family: Family, case: Case) -> tuple[Any, float, float]:
    seconds, model = [], None
    for index, folder in enumerate(family.adapters[case.targets][: case.adapters]):
        started = time.perf_counter()
        if model is None:
            model = PeftModel.from_pretrained(base, folder, adapter_name="0", autocast_adapter_dtype=False)
        else:
            model.load_adapter(folder, adapter_name=str(index), autocast_adapter_dtype=False)
        seconds.append(time.perf_counter() - started)
    assert model is not None
    adapted = model.to(base.dtype).eval()
    factors = [weight for name, weight in adapted.named_parameters() if "lora_" in name]
    return adapted, statistics.median(seconds), sum(weight.nbytes for weight in factors) / case.adapters


@torch.inference_mode()
def _run(model: Any, trace: Sequence[Asked]) -> Run:
    started, computed = time.perf_counter(), cpu_seconds()
    timelines = []
    for first in range(0, len(trace), CONCURRENT):
        batch = trace[first : first + CONCURRENT]
        times = _batch(model, batch)
        timelines += [Timeline(started, times[: asked.tokens]) for asked in batch]
    return Run(timelines, time.perf_counter() - started, cpu_seconds() - computed)


def _batch(model: Any, batch: Sequence[Asked]) -> list[float]:
    """When each step of the batch was done."""
    width, longest = max(len(asked.prompt) for asked in batch), max(asked.tokens for asked in batch)
    padded = [[0] * (width - len(asked.prompt)) + asked.prompt for asked in batch]
    mask = [[0] * (width - len(asked.prompt)) + [1] * len(asked.prompt) for asked in batch]
    clock = _Clock()
    names = {"adapter_names": [str(asked.adapter) for asked in batch]} if batch[0].adapter is not None else {}
    model.generate(
        input_ids=torch.tensor(padded),
        attention_mask=torch.tensor(mask),
        max_new_tokens=longest,
        min_new_tokens=longest,
        do_sample=False,
        pad_token_id=0,
        eos_token_id=None,
        logits_processor=LogitsProcessorList([clock]),
        **names,
    )
    return clock.times
