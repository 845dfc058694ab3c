"""Logarithms of probabilities, penalties and biases, against transformers and against their formulas."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopPLogitsWarper

from graftwork.adapters.engine.engine import Engine
from graftwork.adapters.engine.sampling import Sampler
from graftwork.adapters.engine.sequence import Request, Sampling
from graftwork.errors import InvalidRequest

if TYPE_CHECKING:
    from tests.adapters.conftest import EngineFactory, Family

PROMPT = list(b"how likely is this")


def drain(engine: Engine) -> None:
    while engine.step():
        pass


@pytest.mark.parametrize("sampling", [{"temperature": 0}, {"temperature": 0.7, "seed": 5, "top_k": 3}])
def test_logprobs_are_those_of_transformers(engine: Engine, family: Family, sampling: dict[str, Any]) -> None:
    options = Sampling(max_tokens=7, ignore_eos=True, logprobs=4, **sampling)
    generation = engine.submit(Request(PROMPT, options, family.pin(engine, "everything"), n=2))
    drain(engine)
    for choice in generation.results(timeout=0):
        with torch.inference_mode():
            ids = torch.tensor([PROMPT + choice.token_ids])
            logits = family._merged("everything")(ids).logits[0, len(PROMPT) - 1 : -1]
        expected = torch.log_softmax(logits, dim=-1)
        assert [logprob.token for logprob in choice.logprobs] == choice.token_ids
        for position, logprob in enumerate(choice.logprobs):
            assert logprob.logprob == pytest.approx(float(expected[position, logprob.token]), abs=1e-3)
            best = torch.topk(expected[position], 4)
            assert [token for token, _ in logprob.top] == best.indices.tolist()
            assert [value for _, value in logprob.top] == pytest.approx(best.values.tolist(), abs=1e-3)


def test_without_being_asked_there_are_no_logprobs(engine: Engine) -> None:
    generation = engine.submit(Request(PROMPT, Sampling(max_tokens=2, ignore_eos=True)))
    drain(engine)
    assert generation.result().logprobs == ()


@pytest.mark.parametrize("min_p", [0.01, 0.2, 1.0])
@pytest.mark.parametrize("top_p", [0.7, 1.0])
def test_min_p_is_that_of_transformers(min_p: float, top_p: float) -> None:
    logits = torch.randn(101, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
    no_ids: Any = torch.zeros(1, 0, dtype=torch.long)
    warped = TemperatureLogitsWarper(0.8)(no_ids, logits[None])
    if top_p < 1:
        warped = TopPLogitsWarper(top_p)(no_ids, warped)
    expected = torch.softmax(MinPLogitsWarper(min_p)(no_ids, warped)[0], dim=-1)
    weights = Sampler(Sampling(temperature=0.8, min_p=min_p, top_p=top_p)).weights(logits)
    torch.testing.assert_close(weights / weights.sum(), expected, rtol=1e-9, atol=1e-12)


def test_penalties_and_biases_follow_their_formula() -> None:
    sampling = Sampling(presence_penalty=0.5, frequency_penalty=-0.25, logit_bias={2: 3.0, 4: -100.0})
    sampler = Sampler(sampling)
    logits = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    for token in (3, 3, 0):
        sampler.record(token)
    expected = [1.0 - 0.5 + 0.25, 2.0, 3.0 + 3.0, 4.0 - 0.5 + 2 * 0.25, 5.0 - 100.0]
    assert sampler.adjust(logits).tolist() == expected
    assert logits.tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_a_penalty_changes_greedy_answers_as_a_reference_loop_does(engine: Engine, family: Family) -> None:
    model, tokens = family._merged(None), list(PROMPT)
    counts: dict[int, int] = {}
    for _ in range(12):
        with torch.no_grad():
            logits = model(torch.tensor([tokens])).logits[0, -1].clone()
        for token, count in counts.items():
            logits[token] -= 1.5 + 0.5 * count
        tokens.append(int(logits.argmax()))
        counts[tokens[-1]] = counts.get(tokens[-1], 0) + 1
    sampling = Sampling(max_tokens=12, temperature=0, ignore_eos=True, presence_penalty=1.5, frequency_penalty=0.5)
    generation = engine.submit(Request(PROMPT, sampling))
    drain(engine)
    assert generation.result().token_ids == tokens[len(PROMPT) :]


@pytest.mark.parametrize("penalty", [1.3, 0.8])
def test_a_repetition_penalty_is_that_of_transformers(engine: Engine, family: Family, penalty: float) -> None:
    model, ids = family._merged(None), torch.tensor([PROMPT])
    options: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    out = model.generate(ids, attention_mask=torch.ones_like(ids), repetition_penalty=penalty, **options)
    sampling = Sampling(max_tokens=12, temperature=0, ignore_eos=True, repetition_penalty=penalty)
    generation = engine.submit(Request(PROMPT, sampling))
    drain(engine)
    assert generation.result().token_ids == out[0, len(PROMPT) :].tolist()
    assert generation.result().token_ids != family.greedy(None, PROMPT, 12, ignore_eos=True)


def test_a_bias_forces_and_forbids_tokens(engine: Engine) -> None:
    def first(bias: dict[int, float]) -> int:
        sampling = Sampling(max_tokens=1, temperature=0, ignore_eos=True, logit_bias=bias)
        generation = engine.submit(Request(PROMPT, sampling))
        drain(engine)
        return generation.result().token_ids[0]

    usual = first({})
    assert first({7: 100.0}) == 7
    assert first({usual: -100.0}) != usual
    with pytest.raises(InvalidRequest, match="logit_bias: its tokens must be from 0 to 259"):
        first({260: 1.0})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("min_p", 1.5),
        ("min_p", math.nan),
        ("presence_penalty", 2.5),
        ("frequency_penalty", -3.0),
        ("logit_bias", {1: math.inf}),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", math.nan),
        ("logprobs", 21),
    ],
)
def test_what_is_out_of_range_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(InvalidRequest, match=f"^{field}: "):
        Sampling(**{field: value})  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match=r"^n: "):
        Request(PROMPT, n=0)


def test_the_largest_seed_has_choices_too(family: Family, engine_of: EngineFactory) -> None:
    sampling = Sampling(max_tokens=3, seed=2**63 - 1, ignore_eos=True)
    generation = engine_of(family).submit(Request(PROMPT, sampling, n=2))
    assert generation.choices == 2
