"""transformers' continuous batching, in this process: the base, and one adapter at most, for it mixes none."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from peft import PeftModel
from transformers import AutoModelForCausalLM, GenerationConfig

from benchmarks.serving.case import BASE, Case
from benchmarks.serving.effort import Effort
from benchmarks.serving.family import Family
from benchmarks.serving.measured import Figures, Run, Timeline, cpu_seconds, summarise
from benchmarks.serving.trace import Asked

WAIT_SECONDS = 600
NO_TOKEN = -1


def measure(family: Family, cases: Sequence[Case], *, effort: Effort) -> Iterator[tuple[Case, Figures]]:
    """Each case that it can compute, on a model of its own."""
    for case in (case for case in cases if case.adapters <= 1):
        model: Any = AutoModelForCausalLM.from_pretrained(family.base, attn_implementation="sdpa")
        model.eval()
        if case != BASE:
            folder = family.adapters[case.targets][0]
            # PEFT puts its layers into this very model
            PeftModel.from_pretrained(model, folder, autocast_adapter_dtype=False).to(model.dtype).eval()
        options = {"max_new_tokens": 128, "do_sample": False, "eos_token_id": NO_TOKEN, "pad_token_id": 0}
        settings: Any = GenerationConfig(**options)  # type: ignore[no-untyped-call]
        with model.continuous_batching_context_manager(generation_config=settings) as batching:
            yield case, summarise(effort.runs(case, partial(_run, batching)))


def _run(batching: Any, trace: Sequence[Asked]) -> Run:
    """All requests are handed over at once: how many run at a time is its own choice."""
    started, computed = time.perf_counter(), cpu_seconds()
    timelines: dict[str, Timeline] = {}
    for asked in trace:
        request = batching.add_request(asked.prompt, max_new_tokens=asked.tokens, record_timestamps=True)
        timelines[request] = Timeline(time.perf_counter())
    for _ in trace:
        done = batching.get_result(timeout=WAIT_SECONDS)
        if done is None or done.error:
            raise RuntimeError(f"continuous batching failed: {done.error if done else 'no answer'}")
        timelines[done.request_id].tokens = list(done.timestamps)
    return Run(list(timelines.values()), time.perf_counter() - started, cpu_seconds() - computed)
