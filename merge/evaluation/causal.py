"""Models that continue texts: exact answers, likeliest options, perplexity."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from transformers import PreTrainedTokenizerBase

from graftwork.adapters.engine.engine import Engine
from graftwork.adapters.engine.sequence import Request, Sampling
from graftwork.errors import InvalidRequest
from graftwork.merge.evaluation.metric import Measured, share
from graftwork.merge.evaluation.subject import Subject
from graftwork.registry.formats.dataset import DatasetConfig, Example

AT_ONCE = 64
"""Prompts in an engine at the same time."""

Step = Callable[[int], None]
"""Told how many examples are done; may raise to end it."""


def exact_match(subject: Subject, examples: Sequence[Example], config: DatasetConfig, step: Step) -> Measured:
    """Whether the greedy answer is one of the accepted ones; white space around either does not count."""
    hits = []
    for place, (example, text) in enumerate(zip(examples, _answers(subject, examples, config), strict=True), start=1):
        accepted = [example["answer"]] if isinstance(example["answer"], str) else example["answer"]
        hits.append(text.strip() in {answer.strip() for answer in accepted})
        step(place)
    value, error = share(hits)
    return Measured({"exact_match": value}, {"examples": len(hits), "standard_error": error})


def multiple_choice(subject: Subject, examples: Sequence[Example], config: DatasetConfig, step: Step) -> Measured:
    """Whether the likeliest option is the right one: by its logarithm, and by that divided by its length in bytes.

    An option's logarithm is the sum over the tokens that follow those of the prompt (as lm-evaluation-harness does);
    white space at the prompt's end is counted to the options.
    """
    hits: list[bool] = []
    normalised: list[bool] = []
    for place, example in enumerate(examples, start=1):
        scores = [_option(subject, example["prompt"], option) for option in example["options"]]
        lengths = [len(option.encode()) for option in example["options"]]
        hits.append(_best(scores) == example["answer"])
        by_length = [score / length for score, length in zip(scores, lengths, strict=True)]
        normalised.append(_best(by_length) == example["answer"])
        step(place)
    (value, error), (other, other_error) = share(hits), share(normalised)
    details = {
        "examples": len(hits),
        "standard_error": error,
        "standard_error_normalised": other_error,
    }
    return Measured({"multiple_choice": value, "multiple_choice_normalised": other}, details)


def perplexity(subject: Subject, examples: Sequence[Example], config: DatasetConfig, step: Step) -> Measured:
    """exp of the mean negative logarithm over all tokens of all texts; the first token of a text is not counted.

    Texts longer than the model reads are cut into windows that overlap by one token, so that every other token counts
    once.
    """
    total, tokens = 0.0, 0
    for place, example in enumerate(examples, start=1):
        ids = _tokens(subject.engine.tokenizer, example["text"])
        for window in _windows(ids, subject.engine):
            scores = _score(subject, window)
            total += sum(scores)
            tokens += len(scores)
        step(place)
    if not tokens:
        raise InvalidRequest(field="dataset", reason="no text of it has two tokens; perplexity needs them")
    details = {"examples": len(examples), "tokens": tokens, "mean_log_likelihood": total / tokens}
    return Measured({"perplexity": math.exp(min(-total / tokens, 700.0))}, details)


def _answers(subject: Subject, examples: Sequence[Example], config: DatasetConfig) -> Iterator[str]:
    """The greedy continuations of the prompts, in order."""
    engine = subject.engine
    waiting: deque[Callable[[], str]] = deque()
    for example in examples:
        ids = _tokens(engine.tokenizer, example["prompt"])
        wanted = max(1, min(config.max_tokens, engine.max_tokens - len(ids)))
        sampling = Sampling(max_tokens=wanted, temperature=0, stop=config.stop)
        generation = engine.submit(Request(ids, sampling, subject.lease_for(ids)))
        waiting.append(lambda generation=generation: generation.result().text)  # type: ignore[misc]
        if len(waiting) == AT_ONCE:
            yield waiting.popleft()()
    while waiting:
        yield waiting.popleft()()


def _option(subject: Subject, prompt: str, option: str) -> float:
    kept = prompt.rstrip()
    tokenizer = subject.engine.tokenizer
    before = _tokens(tokenizer, kept) if kept else []
    whole = _tokens(tokenizer, prompt + option)
    first = max(1, min(len(before), len(whole) - 1))
    return sum(_score(subject, whole)[first - 1 :])


def _score(subject: Subject, ids: Sequence[int]) -> list[float]:
    """The logarithms of the tokens after the first."""
    if len(ids) < 2:
        return []
    lease = subject.lease_for(ids)
    try:
        scores: list[float] = subject.engine.score(ids, None if lease is None else lease.resident).tolist()
        return scores
    finally:
        if lease is not None:
            lease.release()


def _windows(ids: Sequence[int], engine: Engine) -> Iterator[Sequence[int]]:
    most = engine.max_tokens - 1
    for start in range(0, max(1, len(ids) - 1), most - 1):
        yield ids[start : start + most]


def _tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, verbose=False)
    return ids


def _best(scores: Sequence[float]) -> int:
    return max(range(len(scores)), key=scores.__getitem__)
