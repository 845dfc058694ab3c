from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from graftwork.adapters.engine.sampling import Sampler, choose
from graftwork.adapters.engine.sequence import Request, Sampling
from graftwork.errors import InvalidRequest

if TYPE_CHECKING:
    from tests.adapters.conftest import EngineFactory, Family


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("top_k", [0, 1, 7, 500])
@pytest.mark.parametrize("top_p", [0.05, 0.6, 0.95, 1.0])
def test_the_weights_are_those_of_transformers(temperature: float, top_k: int, top_p: float) -> None:
    logits = torch.randn(101, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
    warped, no_ids = logits[None], torch.zeros(1, 0, dtype=torch.long)
    warped = TemperatureLogitsWarper(temperature)(no_ids, warped)
    if top_k:
        warped = TopKLogitsWarper(top_k)(no_ids, warped)
    if top_p < 1:
        warped = TopPLogitsWarper(top_p)(no_ids, warped)
    expected = torch.softmax(warped[0], dim=-1)
    weights = Sampler(Sampling(temperature=temperature, top_k=top_k, top_p=top_p)).weights(logits)
    torch.testing.assert_close(weights / weights.sum(), expected, rtol=1e-9, atol=1e-12)


def test_tokens_are_drawn_by_their_weight() -> None:
    logits = torch.tensor([0.5, -1.0, 2.0, 1.0, -3.0])
    sampler = Sampler(Sampling(temperature=0.8, top_k=4, seed=11))
    draws = torch.tensor([sampler.draw(logits) for _ in range(20_000)])
    counts = torch.bincount(draws, minlength=5).double()
    share = sampler.weights(logits) / sampler.weights(logits).sum()
    assert counts[4] == 0
    spread = (20_000 * share * (1 - share)).sqrt()
    assert bool(((counts - 20_000 * share).abs() <= 5 * spread).all())


def test_greedy_takes_the_best_and_non_finite_logits_give_no_token() -> None:
    greedy = Sampler(Sampling(temperature=0))
    nan, inf = float("nan"), float("inf")
    logits = torch.tensor([[0.0, 3.0, 1.0], [0.0, nan, 1.0], [-inf, -inf, 1.0], [0.0, inf, 1.0]])
    choices = [choice for [choice] in choose(logits, [[greedy]] * 4)]
    assert [choice and choice.token for choice in choices] == [1, None, 2, None]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", 0),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_k", -1),
        ("seed", 2**63),
        ("stop", ("",)),
    ],
)
def test_a_field_out_of_range_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(InvalidRequest, match=f"^{field}: "):
        Sampling(**{field: value})  # type: ignore[arg-type]


def test_a_seed_gives_the_same_tokens_alone_and_in_a_batch(family: Family, engine_of: EngineFactory) -> None:
    engine = engine_of(family)
    wanted = [
        (name, Sampling(max_tokens=15, temperature=0.9, top_p=0.95, top_k=50, seed=seed, ignore_eos=True))
        for seed, name in enumerate([None, "attention", "everything", "mlp", None, "pattern"])
    ]
    prompt = list(b"once upon a time")

    def submit(name: str | None, sampling: Sampling) -> list[int]:
        generation = engine.submit(Request(prompt, sampling, family.lease(engine, name)))
        while engine.step():
            pass
        return generation.result().token_ids

    alone = [submit(name, sampling) for name, sampling in wanted]
    together = [engine.submit(Request(prompt, sampling, family.lease(engine, name))) for name, sampling in wanted]
    while engine.step():
        pass
    assert [generation.result().token_ids for generation in together] == alone
    assert len({tuple(tokens) for tokens in alone}) == len(alone)
