"""Evaluations against transformers itself, commands of the operator's, and what is kept of them."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from graftwork.errors import Cancelled, InvalidRequest, InvalidSetting, OperationFailed
from graftwork.merge.evaluation.by_version import Found, evaluate
from graftwork.merge.evaluation.evaluator import evaluators
from graftwork.merge.evaluation.yardstick import Yardstick
from graftwork.registry.refs import Name, Ref
from graftwork.registry.registry import Registry
from graftwork.registry.transfer.importer import import_source
from graftwork.registry.versions.version import Kind
from graftwork.settings import Settings
from graftwork.testing.encoders import EncoderFamily, tiny_encoder
from graftwork.testing.family import Family
from graftwork.testing.tiny import tiny_family

TEXTS = ["the cat sat on the mat", "two and two make four", "x", "a long text " * 12]
QUESTIONS: list[dict[str, Any]] = [
    {"prompt": "two and two make ", "options": ["four", "seventeen", "a cat"], "answer": 0},
    {"prompt": "the cat sat on the", "options": [" mat", " roof of the house"], "answer": " mat"},
    {"prompt": "x", "options": ["yyyyyyyyyyyyyyyy", "z", "q q"], "answer": 1},
    {"prompt": "a b c", "options": [" d", " eeeee", " f g h i"], "answer": 2},
]
PROMPTS = ["two and two make ", "the cat sat", "hello", "Q: 3+4="]


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return tiny_family(tmp_path_factory.mktemp("family"), fine_tunes=0, adapters=1)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> EncoderFamily:
    return tiny_encoder(tmp_path_factory.mktemp("encoder"), "bert", labels=3)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(
        home=tmp_path_factory.mktemp("evaluations") / "home", threads=1, cache_bytes=10_000_000, prefill_tokens=16
    )


@pytest.fixture(scope="module")
def registry(settings: Settings, family: Family, encoder: EncoderFamily) -> Iterator[Registry]:
    with Registry.open(settings) as opened:
        import_source(opened, str(family.base), Name.parse("t/base"))
        import_source(opened, str(family.adapters["adapter0"]), Name.parse("t/lora"), base=Ref.parse("t/base"))
        import_source(opened, str(encoder.base), Name.parse("t/bert"))
        yield opened


@pytest.fixture(scope="module")
def models(family: Family) -> Mapping[str, Any]:
    """In float64, by transformers and PEFT alone."""

    def base() -> Any:
        return AutoModelForCausalLM.from_pretrained(family.base, dtype=torch.float64)

    adapted: Any = PeftModel.from_pretrained(base(), str(family.adapters["adapter0"]))
    return {"t/base": base().eval(), "t/lora": adapted.to(torch.float64).eval()}


@pytest.fixture(scope="module")
def tokenizer(family: Family) -> Any:
    return AutoTokenizer.from_pretrained(family.base)


def dataset(registry: Registry, folder: Path, name: str, rows: list[Any], **config: Any) -> str:
    folder = folder / name
    folder.mkdir()
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if config:
        (folder / "dataset.json").write_text(json.dumps(config))
    return import_source(registry, str(folder), Name("t", name), kind=Kind.DATASET).ref


def ask(registry: Registry, settings: Settings, model: str, data: str, *metrics: str, **more: Any) -> Found:
    yardstick = Yardstick(dataset=data, **more)
    return evaluate(registry, settings, registry.catalog.resolve(model), yardstick, metrics)


def log_likelihoods(model: Any, ids: list[int]) -> list[float]:
    """Of each token after the first."""
    with torch.inference_mode():
        logits = model(torch.tensor([ids])).logits[0]
    scores = torch.log_softmax(logits.double(), -1)
    return [float(scores[place, token]) for place, token in enumerate(ids[1:])]


@pytest.mark.parametrize("name", ["t/base", "t/lora"])
def test_perplexity_is_that_of_transformers(
    name: str, registry: Registry, settings: Settings, models: Mapping[str, Any], tokenizer: Any, tmp_path: Path
) -> None:
    data = dataset(registry, tmp_path, f"texts-{name[2:]}", [{"text": text} for text in TEXTS])
    found = ask(registry, settings, name, data)
    total, count = 0.0, 0
    for text in TEXTS:
        ids = tokenizer.encode(text)
        for start in range(0, len(ids) - 1, 62):  # the model reads 64 tokens, one of which would be an answer's
            scores = log_likelihoods(models[name], ids[start : start + 63])
            total, count = total + sum(scores), count + len(scores)
    assert count == sum(len(tokenizer.encode(text)) - 1 for text in TEXTS)
    assert found.details["tokens"] == count
    assert found.metrics["perplexity"] == pytest.approx(math.exp(-total / count), rel=1e-5)


@pytest.mark.parametrize("name", ["t/base", "t/lora"])
def test_options_are_chosen_as_transformers_would(
    name: str, registry: Registry, settings: Settings, models: Mapping[str, Any], tokenizer: Any, tmp_path: Path
) -> None:
    data = dataset(registry, tmp_path, f"questions-{name[2:]}", QUESTIONS)
    found = ask(registry, settings, name, data)
    right, right_by_length = 0, 0
    for question in QUESTIONS:
        prompt, options = str(question["prompt"]), cast("list[str]", question["options"])
        begin = len(tokenizer.encode(prompt.rstrip()))
        scores = [sum(log_likelihoods(models[name], tokenizer.encode(prompt + one))[begin - 1 :]) for one in options]
        given = question["answer"]
        answer = given if isinstance(given, int) else options.index(str(given))
        right += scores.index(max(scores)) == answer
        by_length = [score / len(one.encode()) for score, one in zip(scores, options, strict=True)]
        right_by_length += by_length.index(max(by_length)) == answer
    assert found.metrics == {"multiple_choice": right / 4, "multiple_choice_normalised": right_by_length / 4}


@pytest.mark.parametrize("name", ["t/base", "t/lora"])
def test_exact_match_is_that_of_greedy_generation(
    name: str, registry: Registry, settings: Settings, models: Mapping[str, Any], tokenizer: Any, tmp_path: Path
) -> None:
    answers = []
    for prompt in PROMPTS:
        ids = torch.tensor([tokenizer.encode(prompt)])
        mask = torch.ones_like(ids)
        said = models[name].generate(input_ids=ids, attention_mask=mask, max_new_tokens=6, do_sample=False)
        answers.append(tokenizer.decode(said[0, ids.shape[1] :], skip_special_tokens=True))
    rows = [{"q": prompt, "a": [" nothing", f" {answer}\n"]} for prompt, answer in zip(PROMPTS, answers, strict=True)]
    rows[1]["a"] = "something else"
    config = {"task": "generation", "fields": {"prompt": "q", "answer": "a"}, "max_tokens": 6}
    data = dataset(registry, tmp_path, f"prompts-{name[2:]}", rows, **config)
    assert ask(registry, settings, name, data).metrics == {"exact_match": 3 / 4}
    assert ask(registry, settings, name, data, limit=1).metrics == {"exact_match": 1.0}


def test_accuracy_is_that_of_transformers(
    registry: Registry, settings: Settings, encoder: EncoderFamily, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(encoder.base)
    pairs = [("a text", None), ("another one", "and its second"), ("third", None), ("4", None)]
    said = [int(encoder.logits(None, dict(tokenizer(*filter(None, pair)))).argmax()) for pair in pairs]
    rows = [
        {"text": text, "label": f"LABEL_{label}" if place % 2 else label, **({"text_pair": pair} if pair else {})}
        for place, ((text, pair), label) in enumerate(zip(pairs, said, strict=True))
    ]
    rows[3]["label"] = (said[3] + 1) % 3
    data = dataset(registry, tmp_path, "labels", rows)
    assert ask(registry, settings, "t/bert", data).metrics == {"accuracy": 3 / 4}
    with pytest.raises(InvalidRequest, match=r"t/base@v1 continues texts; .* needs a classifier"):
        ask(registry, settings, "t/base", data)
    wrong = dataset(registry, tmp_path, "wrong-labels", [{"text": "x", "label": "spam"}])
    with pytest.raises(InvalidRequest, match="the label 'spam' of line 1 is none of the model's: LABEL_0"):
        ask(registry, settings, "t/bert", wrong)


def test_the_same_evaluation_again_is_found(
    registry: Registry, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = dataset(registry, tmp_path, "once", [{"text": "one text"}, {"text": "another one"}])
    first = ask(registry, settings, "t/base", data)
    assert not first.known

    def refuse(*arguments: object) -> None:
        raise AssertionError

    monkeypatch.setattr("graftwork.merge.evaluation.by_version.open_version", refuse)
    for more in ({}, {"limit": 2}, {"limit": 99}):
        again = ask(registry, settings, "t/base", data, "perplexity", **more)
        assert again.known
        assert again.metrics == first.metrics
    with pytest.raises(AssertionError):
        ask(registry, settings, "t/base", data, limit=1)
    with pytest.raises(InvalidRequest, match="a dataset of the task text has no 'accuracy'; it has perplexity"):
        ask(registry, settings, "t/base", data, "accuracy")
    with pytest.raises(InvalidRequest, match="t/base@v1 is a base, not a dataset"):
        ask(registry, settings, "t/base", "t/base")
    digest = registry.catalog.resolve("t/base").digest
    (kept,) = [one for one in registry.evaluations.of([digest]) if one.dataset == data]
    assert (kept.metric, kept.value) == ("perplexity", first.metrics["perplexity"])
    assert kept.dataset_digest == registry.catalog.resolve(data).digest


def configured(settings: Settings, program: str, seconds: int = 20, name: str = "size") -> Settings:
    quoted = program.replace('"', '\\"')
    return replace(
        settings, evaluators=f'{name}={sys.executable} -c "{quoted}" {{model}} {{base}}', evaluator_seconds=seconds
    )


def by_command(registry: Registry, settings: Settings, model: str, *metrics: str, name: str = "size") -> Found:
    return evaluate(registry, settings, registry.catalog.resolve(model), Yardstick(evaluator=name), metrics)


def test_a_command_of_the_operator_measures_a_folder(registry: Registry, settings: Settings) -> None:
    program = (
        "import json,os,sys; print(json.dumps({'files': len(os.listdir(sys.argv[1])), 'based': len(sys.argv[2])}))"
    )
    ours = configured(settings, program)
    found = by_command(registry, ours, "t/lora")
    assert found.metrics["files"] == len(registry.catalog.resolve("t/lora").files)
    assert found.metrics["based"] > 0
    assert by_command(registry, ours, "t/lora", "files").known
    with pytest.raises(InvalidRequest, match="gave no 'speed'; it gave files, based"):
        by_command(registry, ours, "t/base", "speed")
    with pytest.raises(InvalidRequest, match=r"the operator has configured no 'other' .*; there is size"):
        by_command(registry, ours, "t/lora", name="other")


def test_a_command_that_hangs_or_fails_ends_with_a_reason(registry: Registry, settings: Settings) -> None:
    with pytest.raises(OperationFailed, match="it took longer than 1 s"):
        by_command(registry, configured(settings, "import time; time.sleep(60)", 1), "t/base")
    with pytest.raises(OperationFailed, match="exit code 3"):
        by_command(registry, configured(settings, "import sys; sys.exit(3)"), "t/base")
    version = registry.catalog.resolve("t/base")
    ours = configured(settings, "import time; time.sleep(61)")
    with pytest.raises(Cancelled):
        evaluate(registry, ours, version, Yardstick(evaluator="size"), stopped=lambda: True)


@pytest.mark.parametrize(
    "text", ["size", "size=", "size=ls", "a b=ls {model}", "x=ls {model};x=ls {model}", "x='{model}"]
)
def test_evaluators_that_cannot_work_are_refused(settings: Settings, text: str) -> None:
    with pytest.raises(InvalidSetting, match="NAME=COMMAND"):
        evaluators(replace(settings, evaluators=text))


def test_lm_eval_is_refused_by_name_or_called(
    registry: Registry, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = replace(settings, evaluators="mmlu=lm-eval --tasks mmlu")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InvalidRequest, match=r"mmlu needs lm-eval, which is not installed: pip install 'graftwork\[lm"):
        by_command(registry, ours, "t/base", name="mmlu")
    program = tmp_path / "lm_eval"
    program.write_text(
        f"#!{sys.executable}\n"
        "import json, pathlib, sys\n"
        "given = dict(zip(sys.argv[1::2], sys.argv[2::2]))\n"
        "out = pathlib.Path(given['--output_path']) / 'model'\n"
        "out.mkdir()\n"
        "values = {'alias': 'mmlu', 'acc,none': 0.25, 'args': len(given['--model_args'].split(','))}\n"
        "(out / 'results_now.json').write_text(json.dumps({'results': {given['--tasks']: values}}))\n"
        "print('a table')\n"
    )
    program.chmod(0o755)
    assert by_command(registry, ours, "t/base", name="mmlu").metrics == {"mmlu.acc": 0.25, "mmlu.args": 1.0}
    assert by_command(registry, ours, "t/lora", name="mmlu").metrics == {"mmlu.acc": 0.25, "mmlu.args": 2.0}
