"""Models of different vocabularies: rows of embeddings are matched by the token's text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from transformers import AutoTokenizer

from graftwork.errors import GraftworkError, IncompatibleModels, InvalidRecipe
from graftwork.merge.recipe.recipe import load_recipe
from graftwork.merge.run.run import merge
from graftwork.merge.slices.slices import GRAIN
from graftwork.settings import Settings

A = ["<unk>", "<s>", "red", "green", "blue", "lime"]
B = ["<s>", "blue", "<unk>", "pink", "green", "teal", "lime"]
WIDTH = 3
EMBEDDING, HEAD, BODY = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"
Rows = dict[str, NDArray[np.float64]]


def write(
    folder: Path,
    words: Sequence[str],
    seed: int,
    *,
    rows: int = 0,
    template: str = "",
    width: int = WIDTH,
    dtype: Any = np.float32,
) -> str:
    """A model with an embedding and a head, its tokenizer, and special tokens found before the text is split."""
    folder.mkdir()
    random = np.random.default_rng(seed)
    rows = rows or len(words)
    tensors = {
        EMBEDDING: random.normal(size=(rows, width)),
        HEAD: random.normal(size=(rows, width)),
        BODY: random.normal(size=width),
    }
    save_file(
        {name: values.astype(dtype) for name, values in tensors.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    special = [word for word in words if word.startswith("<")]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None,
        "pre_tokenizer": {"type": "Whitespace"}, "decoder": None,
        "added_tokens": [{"id": words.index(word), "content": word, **flags} for word in special],
        "model": {"type": "WordLevel", "vocab": {word: words.index(word) for word in words}, "unk_token": "<unk>"},
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>", "bos_token": "<s>"}
    (folder / "tokenizer_config.json").write_text(
        json.dumps(settings | ({"chat_template": template} if template else {}))
    )
    config = {"model_type": "llama", "vocab_size": rows, "bos_token_id": words.index("<s>"), "torch_dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[str, str]:
    return write(tmp_path / "a", A, 1), write(tmp_path / "b", B, 2)


def merged(tmp_path: Path, models: Sequence[str], method: str = "linear", name: str = "merged", **more: Any) -> Path:
    settings = {key: more.pop(key) for key in ("memory", "threads") if key in more}
    recipe = {"merge_method": method, "models": [{"model": model} for model in models], **more}
    return merge(load_recipe(recipe), out=tmp_path / name, settings=Settings(**settings))


def by_token(folder: Path | str, tensor: str = EMBEDDING, words: Sequence[str] | None = None) -> Rows:
    values = load_file(Path(folder) / "model.safetensors")[tensor].astype(np.float64)
    ids: Mapping[str, int] = AutoTokenizer.from_pretrained(folder).get_vocab()
    return {word: values[number] for word, number in ids.items() if words is None or word in words}


def close(actual: Rows, expected: Rows) -> None:
    assert actual.keys() == expected.keys()
    for word, row in expected.items():
        np.testing.assert_allclose(actual[word], row, rtol=1e-5, atol=1e-6, err_msg=word)


@pytest.mark.parametrize("tensor", [EMBEDDING, HEAD])
def test_a_union_averages_shared_tokens_and_keeps_the_others(
    tmp_path: Path, pair: tuple[str, str], tensor: str
) -> None:
    out = merged(tmp_path, pair, tokenizer={"source": "union"})
    a, b = by_token(pair[0], tensor), by_token(pair[1], tensor)
    union = [*A, "pink", "teal"]
    close(by_token(out, tensor), {w: ((a if w in a else b)[w] + (b if w in b else a)[w]) / 2 for w in union})
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.get_vocab() == {word: number for number, word in enumerate(union)}
    assert tokenizer.convert_ids_to_tokens(tokenizer("red pink blue teal")["input_ids"]) == [
        "red",
        "pink",
        "blue",
        "teal",
    ]
    assert json.loads((out / "config.json").read_text())["vocab_size"] == len(union)


def test_the_base_lends_the_rows_that_others_lack(tmp_path: Path, pair: tuple[str, str]) -> None:
    third = write(tmp_path / "c", ["<unk>", "<s>", "teal", "mauve"], 3)
    out = merged(tmp_path, [pair[1], third], "task_arithmetic", base_model=pair[0], tokenizer={"source": "union"})
    a, b, c = by_token(pair[0]), by_token(pair[1]), by_token(third)
    for word, row in by_token(out).items():
        base = (
            a[word]
            if word in a
            else b[word]
            if word in b and word not in c
            else c[word]
            if word not in b
            else (b[word] + c[word]) / 2
        )
        wanted = base + (b.get(word, base) - base) + (c.get(word, base) - base)
        np.testing.assert_allclose(row, wanted, rtol=1e-5, atol=1e-5, err_msg=word)


@pytest.mark.parametrize("by_name", [True, False])
def test_the_vocabulary_of_a_model(tmp_path: Path, pair: tuple[str, str], by_name: bool) -> None:
    more = {"tokenizer_source": pair[1]} if by_name else {"tokenizer_source": "base", "base_model": pair[1]}
    out = merged(tmp_path, pair, parameters={"weight": 0.5, "normalize": False}, **more)
    a, b = by_token(pair[0]), by_token(pair[1])
    close(by_token(out), {word: (a.get(word, b[word]) + b[word]) / 2 for word in B})
    assert (out / "tokenizer.json").read_bytes() == (Path(pair[1]) / "tokenizer.json").read_bytes()
    assert json.loads((out / "config.json").read_text())["bos_token_id"] == B.index("<s>")


def test_tokens_are_given_what_the_recipe_says(tmp_path: Path, pair: tuple[str, str]) -> None:
    tokens = {
        "pink": {"source": {"kind": "zero"}},
        "teal": {"source": {"kind": "model_token", "model": pair[0], "token": "red"}},
        "new": {"source": {"kind": "model_token", "model": pair[1], "token_id": 3}},
        "blue": {"source": pair[1], "force": True},
        "bare": {},
    }
    out = merged(tmp_path, pair, tokenizer={"source": "union", "tokens": tokens})
    a, b, got = by_token(pair[0]), by_token(pair[1]), by_token(out)
    close(
        {word: got[word] for word in ("pink", "teal", "new", "blue", "green", "bare")},
        {
            "pink": b["pink"] / 2,
            "teal": (a["red"] + b["teal"]) / 2,
            "new": b["pink"],
            "blue": b["blue"],
            "green": (a["green"] + b["green"]) / 2,
            "bare": np.zeros(WIDTH),
        },
    )


def test_padding_rows_are_the_mean_of_the_tokens(tmp_path: Path, pair: tuple[str, str]) -> None:
    out = merged(tmp_path, pair, tokenizer={"source": "union", "pad_to_multiple_of": 5})
    values = load_file(out / "model.safetensors")[EMBEDDING].astype(np.float64)
    assert values.shape == (10, WIDTH)
    np.testing.assert_allclose(values[8:], np.tile(values[:8].mean(axis=0), (2, 1)), rtol=1e-5, atol=1e-6)
    assert json.loads((out / "config.json").read_text())["vocab_size"] == 10


def test_tokens_without_a_row_and_rows_without_a_token_are_left_out(tmp_path: Path) -> None:
    short, long = write(tmp_path / "short", A, 1, rows=5), write(tmp_path / "long", A[:4], 2, rows=8)
    out = merged(tmp_path, [short, long], tokenizer={"source": "union"})
    assert list(by_token(out))
    assert set(by_token(out)) == {"<unk>", "<s>", "red", "green", "blue"}
    assert load_file(out / "model.safetensors")[HEAD].shape == (5, WIDTH)


def test_the_bytes_do_not_depend_on_slices_and_bfloat16_is_kept(tmp_path: Path) -> None:
    words = ["<unk>", "<s>", *(f"w{number}" for number in range(900))]
    a = write(tmp_path / "a", words, 1, width=257, dtype=ml_dtypes.bfloat16)
    b = write(tmp_path / "b", [*words[::-1][:700], "<s>", "<unk>", "extra"], 2, width=257, dtype=ml_dtypes.bfloat16)
    more: dict[str, Any] = {"tokenizer": {"source": "union", "pad_to_multiple_of": 128}}
    small = load_file(
        merged(tmp_path, [a, b], name="small", memory=60 * GRAIN, threads=1, **more) / "model.safetensors"
    )
    large = load_file(merged(tmp_path, [a, b], name="large", threads=2, **more) / "model.safetensors")
    assert small[EMBEDDING].dtype == ml_dtypes.bfloat16
    assert all(np.array_equal(small[name].view(np.uint16), values.view(np.uint16)) for name, values in large.items())


def test_slices_take_embeddings_from_their_ends(tmp_path: Path, pair: tuple[str, str]) -> None:
    for path in pair:
        tensors = load_file(Path(path) / "model.safetensors")
        save_file(
            {**tensors, "model.layers.0.w": np.ones(2, np.float32)}, Path(path) / "model.safetensors", {"format": "pt"}
        )
    slices = [{"sources": [{"model": path, "layer_range": [0, 1]}]} for path in pair]
    recipe = {"merge_method": "passthrough", "slices": slices, "tokenizer": {"source": "union"}}
    out = merge(load_recipe(recipe), out=tmp_path / "merged", settings=Settings())
    zeros = np.zeros(WIDTH)
    close(by_token(out), {word: by_token(pair[0]).get(word, zeros) for word in {*A, *B}})
    close(by_token(out, HEAD), {word: by_token(pair[1], HEAD).get(word, zeros) for word in {*A, *B}})


@pytest.mark.parametrize(
    ("tokenizer", "said"),
    [
        ({"source": "base"}, "it is base, and there is no base_model"),
        (
            {"tokens": {"x": {"source": {"kind": "model_token", "model": "A", "token": "nothing"}}}},
            "has no token 'nothing'",
        ),
        ({"tokens": {"x": {"source": {"kind": "model_token", "model": "A", "token_id": 99}}}}, "no embedding of it"),
        ({"tokens": {"x": {"source": "A"}}}, "no embedding of it, in 6 rows"),
        ({"tokens": {"x": {"source": {"kind": "model_token", "model": "A"}}}}, "either token or token_id"),
        ({"pad_to_multiple_of": 0}, "pad_to_multiple_of"),
        ({"sauce": "union"}, "did you mean source"),
    ],
)
def test_what_a_tokenizer_section_may_not_say(tmp_path: Path, pair: tuple[str, str], tokenizer: Any, said: str) -> None:
    wanted = json.loads(json.dumps(tokenizer).replace('"A"', json.dumps(pair[0])))
    with pytest.raises(InvalidRecipe, match=said):
        merged(tmp_path, pair, tokenizer=wanted)


def test_different_vocabularies_need_a_tokenizer_section(tmp_path: Path, pair: tuple[str, str]) -> None:
    with pytest.raises(IncompatibleModels, match=r"\[6, 3\] in the one and \[7, 3\] .* add a tokenizer section"):
        merged(tmp_path, pair)


def test_a_model_without_a_vocabulary_cannot_lend_it(tmp_path: Path, pair: tuple[str, str]) -> None:
    (Path(pair[0]) / "tokenizer.json").unlink()
    with pytest.raises(GraftworkError, match=r"no tokenizer\.json"):
        merged(tmp_path, pair, tokenizer={"source": "union"})


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [("auto", "{{ two }}"), ("B", "{{ two }}"), ("{{ mine }}", "{{ mine }}"), ("chatml", "<|im_start|>")],
)
def test_chat_templates(tmp_path: Path, wanted: str, expected: str) -> None:
    models = [write(tmp_path / "x", A, 0, template="{{ one }}")]
    models += [write(tmp_path / name, A, 1, template="{{ two }}") for name in "yz"]
    out = merged(tmp_path, models, chat_template=models[1] if wanted == "B" else wanted)
    assert expected in AutoTokenizer.from_pretrained(out).chat_template


TURNS = {
    "llama3": (
        "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>",
        "<s>",
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "Ho<|eot_id|>",
    ),
    "mistral": ("<s> [INST] Be brief.\n\nHi [/INST]", "<s> [INST] Hi [/INST]", "", "", " Ho</s>"),
    "alpaca": (
        "Be brief.\n\n",
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n",
        "### Instruction:\nHi\n\n",
        "### Response:\n",
        "Ho</s>\n\n",
    ),
    "exaone": (
        "[|system|]Be brief.[|endofturn|]\n",
        "[|system|][|endofturn|]\n",
        "[|user|]Hi\n",
        "[|assistant|]",
        "Ho[|endofturn|]\n",
    ),
    "chatml": (
        "<|im_start|>system\nBe brief.<|im_end|>\n",
        "",
        "<|im_start|>user\nHi<|im_end|>\n",
        "<|im_start|>assistant\n",
        "Ho<|im_end|>\n",
    ),
}
"""By format: what a system prompt begins with, a conversation without one, a question, an answer, and its end."""


@pytest.mark.parametrize("name", TURNS)
def test_named_chat_templates_are_the_formats_of_their_models(tmp_path: Path, name: str) -> None:
    model = write(tmp_path / "x", [*A, "</s>"], 0)
    settings = Path(model, "tokenizer_config.json")
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"bos_token": "<s>", "eos_token": "</s>"}))
    tokenizer = AutoTokenizer.from_pretrained(merged(tmp_path, [model], chat_template=name))
    system, alone, asked, answering, answered = TURNS[name]
    prompt, question, answer = (
        {"role": role, "content": text} for role, text in (("system", "Be brief."), ("user", "Hi"), ("assistant", "Ho"))
    )

    def said(*turns: dict[str, str], ask: bool = False) -> str:
        return str(tokenizer.apply_chat_template(list(turns), tokenize=False, add_generation_prompt=ask))

    assert said(question, ask=True) == alone + asked + answering
    assert said(prompt, question, ask=True) == system + asked + answering
    again = (" [INST] Hi [/INST]" if name == "mistral" else asked) + answering
    assert said(prompt, question, answer, question, ask=True) == system + asked + answering + answered + again


@pytest.mark.parametrize(
    ("wanted", "said"), [("vicuna", "it is 'vicuna'; accepted are auto, alpaca, chatml"), ("A", "has no chat template")]
)
def test_a_chat_template_that_is_not_there(tmp_path: Path, pair: tuple[str, str], wanted: str, said: str) -> None:
    with pytest.raises(InvalidRecipe, match=said):
        merged(tmp_path, [pair[0]], chat_template=pair[0] if wanted == "A" else wanted)
