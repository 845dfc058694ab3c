from pathlib import Path

import pytest
from transformers import AutoTokenizer

from graftwork.testing.skills import SKILLS
from graftwork.testing.tokenizer import CHARACTERS, character_tokenizer


def test_a_text_has_one_token_a_character_and_comes_back_unchanged() -> None:
    tokenizer = character_tokenizer(context=64)
    for text in (CHARACTERS, "reverse kotami=", "  two  spaces "):
        ids = tokenizer(text)["input_ids"]
        assert len(ids) == len(text)
        assert tokenizer.decode(ids) == text


def test_every_skill_is_made_of_known_characters() -> None:
    tokenizer = character_tokenizer(context=64)
    for skill in SKILLS:
        for example in skill.examples(200, split="train"):
            assert tokenizer.unk_token_id not in tokenizer(example.prompt + example.answer)["input_ids"]


@pytest.mark.parametrize("text", ["é", "\n", "日"])
def test_another_character_is_one_unknown_token(text: str) -> None:
    tokenizer = character_tokenizer(context=64)
    assert tokenizer("a" + text + "b")["input_ids"][1:-1] == [tokenizer.unk_token_id]


def test_it_survives_saving_with_its_special_tokens_and_its_chat_template(tmp_path: Path) -> None:
    tokenizer = character_tokenizer(context=64)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded("sort kotami=")["input_ids"] == tokenizer("sort kotami=")["input_ids"]
    assert (loaded.eos_token, loaded.pad_token, loaded.padding_side) == ("<eos>", "<pad>", "left")
    assert len({loaded.eos_token_id, loaded.pad_token_id, loaded.unk_token_id}) == 3
    conversation = [{"role": "user", "content": "hello"}, {"role": "user", "content": "sort kotami="}]
    assert loaded.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True) == "sort kotami="
    assert loaded.decode([*loaded("ab")["input_ids"], loaded.eos_token_id], skip_special_tokens=True) == "ab"
