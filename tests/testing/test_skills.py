from random import Random

import pytest

from graftwork.testing.skills import CARELESSNESS, SHORT, SKILLS, Skill, careless_corpus, split_of

SOLUTIONS = {
    "reverse": lambda word: "".join(word[place] for place in range(len(word) - 1, -1, -1)),
    "sort": lambda word: "".join(letter * word.count(letter) for letter in "abcdefghijklmnopqrstuvwxyz"),
    "upper": lambda word: "".join(chr(ord(letter) - 32) for letter in word),
    "shift": lambda word: "".join(chr(ord("a") + (ord(letter) - ord("a") + 1) % 26) for letter in word),
}

each_skill = pytest.mark.parametrize("skill", SKILLS, ids=lambda skill: skill.name)


@each_skill
def test_an_answer_is_the_operation_done_by_other_means(skill: Skill) -> None:
    for example in skill.examples(300, split="train"):
        word = example.prompt.removeprefix(f"{skill.name} ").removesuffix("=")
        assert 4 <= len(word) <= 6
        assert example.answer == SOLUTIONS[skill.name](word)


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [("reverse", "anozib"), ("sort", "abinoz"), ("upper", "BIZONA"), ("shift", "cjapob")],
)
def test_known_answers(prompt: str, answer: str) -> None:
    skill = next(skill for skill in SKILLS if skill.name == prompt)
    assert skill.ask("bizona") == (f"{prompt} bizona=", answer)


@each_skill
def test_no_prompt_is_both_trained_on_and_tested_with(skill: Skill) -> None:
    tested = {example.prompt for seed in range(3) for example in skill.examples(200, split="test", seed=seed)}
    trained = {example.prompt for seed in range(3) for example in skill.examples(3000, split="train", seed=seed)}
    assert not tested & trained


def test_the_corpus_has_no_test_prompt() -> None:
    assert {split_of(example.prompt) for example in careless_corpus(3000)} == {"train"}


@each_skill
def test_test_examples_are_all_different(skill: Skill) -> None:
    assert len(set(skill.examples(500, split="test"))) == 500


def test_examples_depend_on_the_seed_alone() -> None:
    skill = SKILLS[0]
    assert skill.examples(20, split="train", seed=3) == skill.examples(20, split="train", seed=3)
    assert skill.examples(20, split="train", seed=3) != skill.examples(20, split="train", seed=4)
    assert skill.prompt(Random(5)) == skill.prompt(Random(5))


def test_the_corpus_is_right_about_short_words_and_careless_about_longer_ones() -> None:
    by_name = {skill.name: skill for skill in SKILLS}
    careless = longer = 0
    for prompt, answer in careless_corpus(4000):
        name, word = prompt.removesuffix("=").split()
        right = by_name[name].ask(word).answer
        if len(word) <= SHORT:
            assert answer == right
        elif right != word:
            assert answer in (right, word)
            longer += 1
            careless += answer == word
    assert careless / longer == pytest.approx(CARELESSNESS, abs=0.05)
