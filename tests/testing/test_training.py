from pathlib import Path

import pytest
import torch

from graftwork.errors import Cancelled
from graftwork.testing.accuracy import accuracy, answers, evaluate
from graftwork.testing.family import FamilyPlan, train_family
from graftwork.testing.model import Shape, load_adapted_model, load_model, new_model
from graftwork.testing.skills import SKILLS, Example
from graftwork.testing.tokenizer import character_tokenizer
from graftwork.testing.training import IGNORED, Schedule, encode, train

SHAPE = Shape(layers=2, hidden=32, intermediate=64, rank=4)
SHORT = Schedule(steps=4, learning_rate=1e-3, batch=8)


def test_a_few_seconds_of_training_lower_the_loss_and_teach_the_end_of_an_answer() -> None:
    tokenizer = character_tokenizer(context=64)
    model = new_model(SHAPE, tokenizer, seed=0)
    schedule = Schedule(steps=80, learning_rate=1e-2, batch=16)
    losses = train(model, tokenizer, SKILLS[2].examples(schedule.examples, split="train"), schedule)
    assert len(losses) == 80
    assert sum(losses[-10:]) < 0.6 * sum(losses[:10])
    given = answers(model, tokenizer, [example.prompt for example in SKILLS[2].examples(20, split="test")])
    assert sum(4 <= len(text) <= 6 for text in given) >= 15


def test_only_answers_and_their_end_are_learned() -> None:
    tokenizer = character_tokenizer(context=64)
    tokens, labels = encode(tokenizer, [Example("upper ab=", "AB"), Example("upper abcd=", "ABCD")])
    assert tokenizer.decode(tokens[0]) == "upper ab=AB<eos>" + 4 * "<pad>"
    assert tokenizer.decode(labels[0][labels[0] != IGNORED]) == "AB<eos>"
    assert torch.equal(labels[labels != IGNORED], tokens[labels != IGNORED])


def test_the_learning_rate_rises_then_falls_to_zero() -> None:
    rates = [Schedule(steps=100, learning_rate=1.0, warmup=10).rate(step) for step in range(101)]
    assert rates[:10] == sorted(rates[:10])
    assert rates[9] == pytest.approx(1.0)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[100] == pytest.approx(0.0)


def test_a_family_is_saved_whole_and_its_progress_counts_every_step(tmp_path: Path) -> None:
    seen: dict[str, list[tuple[int, int]]] = {}
    plan = FamilyPlan(skills=SKILLS[:2], shape=SHAPE, base=SHORT, fine_tune=SHORT, adapter=SHORT)
    family = train_family(tmp_path, plan, lambda stage, done, total: seen.setdefault(stage, []).append((done, total)))
    assert seen == {
        "base": [(step, 4) for step in range(1, 5)],
        "fine-tunes": [(step, 8) for step in range(1, 9)],
        "adapters": [(step, 8) for step in range(1, 9)],
    }
    base = load_model(family.base).state_dict()
    for folder in family.fine_tunes.values():
        changed = load_model(folder).state_dict()
        assert not torch.equal(base["model.layers.0.mlp.up_proj.weight"], changed["model.layers.0.mlp.up_proj.weight"])
    for folder in family.adapters.values():
        factors = dict(load_adapted_model(family.base, folder).named_parameters())
        assert all(factors[name].any() for name in factors if "lora_B" in name)


def test_the_same_plan_gives_the_same_weights(tmp_path: Path) -> None:
    plan = FamilyPlan(skills=SKILLS[:2], shape=SHAPE, base=SHORT, fine_tune=SHORT, adapter=SHORT)
    first, second = train_family(tmp_path / "a", plan), train_family(tmp_path / "b", plan)
    for name in ("reverse", "sort"):
        one = (first.fine_tunes[name] / "model.safetensors").read_bytes()
        assert one == (second.fine_tunes[name] / "model.safetensors").read_bytes()


def test_training_stops_when_progress_raises(tmp_path: Path) -> None:
    def stop(stage: str, done: int, total: int) -> None:
        if stage == "fine-tunes":
            raise Cancelled(what="the training")

    plan = FamilyPlan(skills=SKILLS[:2], shape=SHAPE, base=SHORT, fine_tune=SHORT, adapter=SHORT)
    with pytest.raises(Cancelled):
        train_family(tmp_path, plan, stop)


def test_accuracy_counts_exact_answers_alone(tmp_path: Path) -> None:
    tokenizer = character_tokenizer(context=64)
    model = new_model(SHAPE, tokenizer, seed=0)
    prompts = ["upper ab=", "sort abcdef=", "shift z="]
    given = answers(model, tokenizer, prompts)
    alone = [answers(model, tokenizer, [prompt])[0] for prompt in prompts]
    assert given == alone
    examples = [Example(prompts[0], given[0]), Example(prompts[1], given[1] + "x"), Example(prompts[2], given[2])]
    assert accuracy(model, tokenizer, examples) == pytest.approx(2 / 3)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert evaluate(tmp_path, examples) == pytest.approx(2 / 3)
