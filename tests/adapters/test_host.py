from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from safetensors.torch import load_file, save_file

from graftwork.adapters.engine.engine import Engine
from graftwork.adapters.engine.sequence import Request, Sampling
from graftwork.adapters.hosting import engines
from graftwork.adapters.hosting.host import Admission, Host
from graftwork.errors import AdapterProbeFailed, InvalidCheckpoint, ModelNotFound, NotFound, Overloaded
from graftwork.registry.refs import Name, Ref
from graftwork.registry.registry import Registry
from graftwork.registry.transfer.importer import import_source
from graftwork.registry.versions.version import Kind, Version
from graftwork.settings import Settings

if TYPE_CHECKING:
    from tests.adapters.conftest import Family

SKILL = Name.parse("team/skill")
PROMPT = list(b"hello")


def answer(admission: Admission, tokens: int = 8) -> list[int]:
    request = Request(PROMPT, Sampling(max_tokens=tokens, temperature=0), admission.lease)
    return admission.engine.submit(request).result(timeout=60).token_ids


@pytest.mark.usefixtures("versions")
def test_a_base_an_alias_and_a_version_are_served_by_one_engine(
    host: Host, versions: dict[str, Version], family: Family
) -> None:
    asked = {
        "team/base": None,
        "team/skill@prod": "attention",
        "team/skill": "everything",
        "TEAM/skill@v1": "attention",
    }
    admissions = {model: host.admit(model) for model in asked}
    assert len({id(admission.engine) for admission in admissions.values()}) == 1
    for model, name in asked.items():
        admission = admissions[model]
        assert admission.served == f"team/{'skill' if name else 'base'}@{versions[name or 'base'].digest[:12]}"
        assert admission.base.digest == versions["base"].digest
        assert answer(admission) == family.greedy(name, PROMPT, 8)


def test_a_request_keeps_its_version_when_the_alias_moves(
    host: Host, registry: Registry, versions: dict[str, Version], family: Family
) -> None:
    before = host.admit("team/skill@prod")
    host.prepare(versions["everything"])
    registry.aliases.set(
        SKILL, "prod", versions["everything"].digest, expected=versions["attention"].digest, actor="test", reason="test"
    )
    after = host.admit("team/skill@prod")
    assert (before.served, after.served) == (
        f"team/skill@{versions['attention'].digest[:12]}",
        f"team/skill@{versions['everything'].digest[:12]}",
    )
    assert answer(after) == family.greedy("everything", PROMPT, 8)
    assert answer(before) == family.greedy("attention", PROMPT, 8)
    assert before.engine.residency.pins(versions["attention"].digest) == 0


def test_first_requests_at_the_same_time_make_one_engine(
    host: Host, versions: dict[str, Version], monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[Path] = []
    load = Engine.load.__func__  # type: ignore[attr-defined]

    class Counted(Engine):
        @classmethod
        def load(cls, folder: Path, settings: Settings, **options: Any) -> Engine:  # type: ignore[override]
            loads.append(folder)
            engine: Engine = load(Engine, folder, settings, **options)
            return engine

    monkeypatch.setattr(engines, "Engine", Counted)
    barrier, made = threading.Barrier(6), set[int]()

    def admit() -> None:
        barrier.wait()
        admission = host.admit("team/skill@prod")
        made.add(id(admission.engine))
        if admission.lease is not None:
            admission.lease.release()

    threads = [threading.Thread(target=admit) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loads) == len(made) == 1
    assert host.admit("team/base").engine.residency.pins(versions["attention"].digest) == 0


def test_a_base_that_cannot_be_loaded_fails_every_request_for_it_and_is_tried_again(
    host: Host, registry: Registry, family: Family, tmp_path: Path
) -> None:
    shutil.copytree(family.base, tmp_path / "bare")
    for file in (tmp_path / "bare").glob("tokenizer*"):
        file.unlink()
    import_source(registry, str(tmp_path / "bare"), Name.parse("team/bare"))
    for _ in range(2):
        with pytest.raises(InvalidCheckpoint, match=r"^team/bare@v1 cannot be used: it has no tokenizer"):
            host.admit("team/bare")


def test_what_is_no_model_is_not_found(host: Host, registry: Registry, family: Family, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        host.admit("team/nothing")
    vector = tmp_path / "vector.safetensors"
    shutil.copy(family.base / "model.safetensors", vector)
    import_source(registry, str(vector), Name.parse("team/vector"), kind=Kind.TASK_VECTOR)
    with pytest.raises(ModelNotFound, match="'team/vector' cannot answer: it is a task vector"):
        host.admit("team/vector")


def test_preparing_does_nothing_until_the_base_has_an_engine(host: Host, versions: dict[str, Version]) -> None:
    host.prepare(versions["everything"])
    host.prepare(versions["base"])
    engine = host.admit("team/base").engine
    assert engine.residency.digests == []
    host.prepare(versions["base"])
    host.prepare(versions["everything"])
    assert engine.residency.digests == [versions["everything"].digest]


@pytest.mark.usefixtures("versions")
def test_a_version_that_fails_its_probe_is_told_and_the_old_one_goes_on(
    host: Host, registry: Registry, family: Family, tmp_path: Path
) -> None:
    shutil.copytree(family.adapters["everything"], tmp_path / "huge")
    weights = tmp_path / "huge" / "adapter_model.safetensors"
    save_file({name: tensor * 1e25 for name, tensor in load_file(weights).items()}, weights)
    bad = import_source(registry, str(tmp_path / "huge"), SKILL, base=Ref.parse("team/base"))
    serving = host.admit("team/skill@prod")
    with pytest.raises(AdapterProbeFailed, match="team/skill@v3 was loaded but its probe failed"):
        host.prepare(bad)
    assert answer(serving) == family.greedy("attention", PROMPT, 8)


@pytest.mark.usefixtures("versions")
def test_a_closed_host_takes_no_requests_and_ends_those_it_has(host: Host) -> None:
    admission = host.admit("team/base")
    generation = admission.engine.submit(Request(PROMPT, Sampling(max_tokens=100, temperature=0, ignore_eos=True)))
    host.close()
    assert generation.result(timeout=0).finish_reason == "abort"
    with pytest.raises(Overloaded, match="shutting down"):
        host.admit("team/base")
