"""Expert sets made again without a member, or with another one in its place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from graftwork.merge.jobs.kinds.rebuild import find_rebuild
from graftwork.merge.rebuild.carry_out import Outcome, carry_out
from graftwork.merge.rebuild.expert_sets import document_of
from graftwork.registry.refs import Name, Ref
from graftwork.registry.registry import Registry
from graftwork.registry.transfer.expert_sets import Member, create_expert_set
from graftwork.registry.transfer.importer import import_source
from graftwork.registry.versions.version import Relation, Version
from graftwork.settings import Settings
from graftwork.testing.tiny import tiny_family

BASE = Ref.parse("tiny/base")
NAME = Name("tiny", "set")
MEMBERS = ("a", "b", "c")
TASKS = {"kind": "task-table", "tasks": {"math": [1.0, 2.0, 3.0], "code": [0.5, 0.0, 0.25]}}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", threads=1)


@pytest.fixture
def registry(settings: Settings, tmp_path: Path) -> Iterator[Registry]:
    family = tiny_family(tmp_path / "family", fine_tunes=0, adapters=4)
    with Registry.open(settings) as opened:
        import_source(opened, str(family.base), BASE.name)
        for name, folder in zip((*MEMBERS, "d"), family.adapters.values(), strict=True):
            import_source(opened, str(folder), Name("tiny", name), base=BASE)
        yield opened


def made(registry: Registry, router: Mapping[str, object], weights: Path | None = None) -> Version:
    members = [Member(name, Ref.parse(f"tiny/{name}"), weight=2.0 if name == "c" else 1.0) for name in MEMBERS]
    return create_expert_set(registry, NAME, members, router, weights=weights)


def rebuilt(registry: Registry, settings: Settings, ref: str, replace_by: str | None = None) -> list[Outcome]:
    return carry_out(find_rebuild(registry, settings, ref, replace_by), registry=registry, settings=settings)


def test_a_member_is_left_out_with_its_column_of_the_table(registry: Registry, settings: Settings) -> None:
    old = made(registry, TASKS)
    registry.marks.quarantine(registry.catalog.resolve("tiny/b"), actor="ada", reason="poisoned")
    (outcome,) = rebuilt(registry, settings, "tiny/b")
    told = outcome.as_json()
    assert (told["how"], told["left_out"], told["made"]) == ("experts", ["tiny/b@v1"], ["tiny/set@v2"])
    new = outcome.versions[0]
    document = document_of(registry, new)
    left = ("a", "c")
    assert [(entry.name, entry.weight) for entry in document.experts] == [("a", 1.0), ("c", 2.0)]
    assert [entry.adapter for entry in document.experts] == [registry.catalog.resolve(f"tiny/{n}").digest for n in left]
    assert document.router.tasks == {"math": [1.0, 3.0], "code": [0.5, 0.25]}
    assert new.base == old.base
    registry.marks.require_usable(new)
    edges = registry.lineage.parents(new.digest)
    assert [(edge.relation, edge.parent) for edge in edges if edge.relation == Relation.REBUILD_OF] == [
        (Relation.REBUILD_OF, old.digest)
    ]
    (again,) = rebuilt(registry, settings, "tiny/b")
    assert again.versions == (new,)


def test_another_adapter_takes_the_place_of_a_member(registry: Registry, settings: Settings) -> None:
    made(registry, {"kind": "arrow", "top_k": 2})
    (outcome,) = rebuilt(registry, settings, "tiny/b", "tiny/d")
    assert outcome.as_json()["replaced"] == ["tiny/b@v1"]
    experts = document_of(registry, outcome.versions[0]).experts
    named = [registry.catalog.by_digest(str(entry.adapter)).ref for entry in experts]
    assert named == ["tiny/a@v1", "tiny/d@v1", "tiny/c@v1"]
    assert document_of(registry, outcome.versions[0]).router.top_k == 2


def test_what_was_learned_for_all_members_is_not_for_some(
    registry: Registry, settings: Settings, tmp_path: Path
) -> None:
    weights = tmp_path / "scaling.safetensors"
    save_file({"scaling": np.ones(3, "f4")}, weights)
    made(registry, {"kind": "fixed"}, weights)
    (outcome,) = rebuilt(registry, settings, "tiny/b")
    assert outcome.reason == "its scaling was made for all of its experts: train it again"
    assert outcome.versions == ()
