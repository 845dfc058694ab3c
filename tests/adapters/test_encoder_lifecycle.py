"""Requests to an encoder engine end in one way each, give their pins back, and do not wait for ever."""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest
import torch

from graftwork.adapters.encoder.attention import Spans
from graftwork.adapters.encoder.batch import Piece, Tokens
from graftwork.adapters.encoder.engine import EncoderEngine
from graftwork.adapters.encoder.pooling import Pooling, read_pooling
from graftwork.adapters.encoder.requests import Encoding, Request
from graftwork.errors import DeadlineExceeded, InvalidCheckpoint, InvalidRequest, OperationFailed, Overloaded, QueueFull
from graftwork.settings import Settings
from graftwork.testing.encoders import EncoderFamily, tiny_encoder


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> EncoderFamily:
    made = tiny_encoder(tmp_path_factory.mktemp("family"), "bert")
    made.add("a", labels=None, seed=1)
    made.add("b", labels=None, seed=2)
    return made


@pytest.fixture
def engine(family: EncoderFamily) -> Iterator[EncoderEngine]:
    settings = Settings(
        home=Path(tempfile.gettempdir()), max_queue=4, encoder_tokens=20, fair_tokens=8, adapter_rank_rows=16
    )
    made = EncoderEngine.load(family.base, settings)
    yield made
    made.close()


def ask(engine: EncoderEngine, texts: list[str], lease: Any = None, **more: Any) -> Encoding:
    return engine.submit(Request(engine.reader.read(texts), lease=lease, **more))


def steps(engine: EncoderEngine) -> int:
    count = 0
    while engine.step():
        count += 1
    return count


def test_texts_of_a_request_are_spread_over_steps_and_come_back_in_order(engine: EncoderEngine) -> None:
    texts = ["a" * length for length in (9, 1, 30, 4, 4, 12)]
    together = ask(engine, texts)
    assert together.tokens == sum(len(text) + 2 for text in texts)
    assert steps(engine) > 3
    alone = [ask(engine, [text]) for text in texts[:3]]
    steps(engine)
    for vector, encoding in zip(together.result()[:3], alone, strict=True):
        torch.testing.assert_close(vector, encoding.result()[0], rtol=0, atol=1e-5)


def test_a_full_queue_says_so_and_gives_the_pin_back(engine: EncoderEngine, family: EncoderFamily) -> None:
    waiting = [ask(engine, ["abc"]) for _ in range(4)]
    lease = engine.residency.acquire("a", family.adapters["a"])
    with pytest.raises(QueueFull):
        ask(engine, ["abc"], lease)
    assert engine.residency.pins("a") == 0
    assert engine.waiting == 4
    steps(engine)
    assert all(encoding.done() for encoding in waiting)
    assert engine.running == engine.waiting == 0


def test_who_goes_away_frees_the_pin_at_the_next_step(engine: EncoderEngine, family: EncoderFamily) -> None:
    lease = engine.residency.acquire("a", family.adapters["a"])
    leaving = ask(engine, ["abc", "defg" * 10], lease)
    engine.step()
    assert engine.residency.pins("a") == 1
    leaving.abort()
    assert steps(engine) == 0
    assert engine.residency.pins("a") == 0
    with pytest.raises(CancelledError):
        leaving.result()


def test_a_deadline_ends_a_request_that_was_not_computed(engine: EncoderEngine, family: EncoderFamily) -> None:
    lease = engine.residency.acquire("a", family.adapters["a"])
    late = ask(engine, ["abc"], lease, deadline=time.monotonic() - 1)
    in_time = ask(engine, ["abc"], deadline=time.monotonic() + 60)
    steps(engine)
    with pytest.raises(DeadlineExceeded):
        late.result()
    assert len(in_time.result()) == 1
    assert engine.residency.pins("a") == 0


def test_a_tenant_with_many_texts_does_not_hold_up_another(engine: EncoderEngine) -> None:
    hot = ask(engine, ["x" * 8] * 60, tenant="hot")
    cold = ask(engine, ["y" * 8], tenant="cold")
    for _ in range(2):
        engine.step()
    assert cold.done()
    assert not hot.done()
    steps(engine)
    assert len(hot.result()) == 60


def test_a_failure_ends_the_requests_of_its_adapter_alone(
    engine: EncoderEngine, family: EncoderFamily, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = engine._runner.forward

    def failing(pieces: list[Piece]) -> Any:
        if any(piece.resident is not None and piece.resident.digest == "a" for piece in pieces):
            raise RuntimeError("no")
        return forward(pieces)

    monkeypatch.setattr(engine._runner, "forward", failing)
    asked = {name: ask(engine, ["abc"], engine.residency.acquire(name, family.adapters[name])) for name in ("a", "b")}
    asked["base"] = ask(engine, ["abc"])
    steps(engine)
    with pytest.raises(OperationFailed, match="no"):
        asked["a"].result()
    assert asked["b"].result()
    assert asked["base"].result()
    assert engine.residency.pins("a") == engine.residency.pins("b") == 0


def test_a_closed_engine_refuses_what_waits_or_finishes_it(family: EncoderFamily) -> None:
    for drain in (False, True):
        engine = EncoderEngine.load(family.base, Settings(home=Path(tempfile.gettempdir())))
        encoding = ask(engine, ["abc"])
        engine.close(drain=drain)
        if drain:
            assert len(encoding.result()) == 1
        else:
            with pytest.raises(Overloaded, match="closed"):
                encoding.result()
        with pytest.raises(Overloaded, match="closed"):
            ask(engine, ["abc"])


def test_many_threads_ask_at_once(engine: EncoderEngine, family: EncoderFamily) -> None:
    engine._queue._max_waiting = 1000
    engine.start()
    wrong: list[str] = []
    wanted = {name: ask(engine, ["abc"], lease_of(engine, family, name)).result(30)[0] for name in (None, "a", "b")}

    def client(name: str | None) -> None:
        for _ in range(20):
            got = ask(engine, ["abc"], lease_of(engine, family, name)).result(30)[0]
            if float((got - wanted[name]).abs().max()) > 1e-5:
                wrong.append(str(name))

    threads = [threading.Thread(target=client, args=(name,)) for name in (None, "a", "b") * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert engine.residency.pins("a") == engine.residency.pins("b") == 0


def lease_of(engine: EncoderEngine, family: EncoderFamily, name: str | None) -> Any:
    return engine.residency.acquire(name, family.adapters[name]) if name else None


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["abc", "a" * 79], r"input\[1\]: it has 81 tokens, and this model reads 80"),
        ([[1, 2, 260]], r"input\[0\]: its tokens must be from 0 to 259"),
        ([[]], r"input\[0\]: it has no tokens"),
    ],
)
def test_what_cannot_be_read_is_refused_by_its_place(engine: EncoderEngine, texts: list[Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        engine.reader.read(texts)


def test_texts_are_cut_only_when_that_is_asked_for(engine: EncoderEngine) -> None:
    [cut] = engine.reader.read(["a" * 200], truncate=2**31)
    assert len(cut) == 80
    assert cut.ids[-1] == engine.tokenizer.sep_token_id
    assert len(engine.reader.read([("a" * 30, "b" * 30)], truncate=12)[0]) == 12
    assert engine.reader.read([list(range(5, 50))], truncate=3) == [Tokens([5, 6, 7])]


def write_modules(folder: Path, pooling: dict[str, Any], *kinds: str) -> None:
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": f"1_{kind}"} for kind in kinds]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))


def test_pooling_is_what_the_checkpoints_files_say(tmp_path: Path) -> None:
    assert read_pooling(tmp_path) == Pooling(("mean",), normalize=False)
    flags = {"pooling_mode_cls_token": True, "pooling_mode_max_tokens": True, "pooling_mode_mean_tokens": False}
    write_modules(tmp_path, flags, "Transformer", "Pooling", "Normalize")
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 64, "do_lower_case": true}')
    assert read_pooling(tmp_path) == Pooling(("cls", "max"), normalize=True, max_tokens=64, lower_case=True)
    write_modules(tmp_path, {"pooling_mode": "lasttoken"}, "Transformer", "Pooling")
    assert read_pooling(tmp_path).modes == ("lasttoken",)
    write_modules(tmp_path, {"pooling_mode": "mean"}, "Transformer", "Pooling", "Dense")
    with pytest.raises(InvalidCheckpoint, match="the module Dense"):
        read_pooling(tmp_path)
    write_modules(tmp_path, {"pooling_mode_other": True}, "Pooling")
    with pytest.raises(InvalidCheckpoint, match="pooling_mode_other"):
        read_pooling(tmp_path)


def test_every_mode_pools_each_text_by_itself(engine: EncoderEngine) -> None:
    texts = [Tokens(range(10, 10 + length)) for length in (4, 7, 4, 1)]
    states: list[Any] = []
    trunk: Any = engine._checkpoint.trunk
    hook = trunk.embeddings.register_forward_hook(lambda *call: states.append(call[2][0]))
    engine._runner.forward([Piece(text, None) for text in texts])
    hook.remove()
    spans = Spans([1, 4, 4, 7], torch.device("cpu"))
    rows, modes = states[0], ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
    got = Pooling(modes).vectors(rows, spans)
    for index, (start, count) in enumerate(((0, 1), (1, 4), (5, 4), (9, 7))):
        own = rows[start : start + count].double()
        weights = torch.arange(1, count + 1).double()[:, None]
        parts = [own[0], own.max(0).values, own.mean(0), own.sum(0) / count**0.5]
        parts += [(own * weights).sum(0) / weights.sum(), own[-1]]
        torch.testing.assert_close(got[index].double(), torch.cat(parts), rtol=0, atol=1e-6)
