"""Making descendants again: byte for byte what a merge without the input gives, and everything else named."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from graftwork.errors import InvalidRequest, VersionQuarantined
from graftwork.merge.extract.extract import extract_version
from graftwork.merge.jobs.kinds.rebuild import RebuildOrder, find_rebuild, submit_rebuild
from graftwork.merge.jobs.worker import run_next
from graftwork.merge.rebuild.carry_out import carry_out
from graftwork.merge.recipe.recipe import load_recipe
from graftwork.merge.run.run import merge
from graftwork.registry.access.access import Access, acting_for
from graftwork.registry.access.grants import Grants
from graftwork.registry.jobs.jobs import State
from graftwork.registry.refs import Name, Ref
from graftwork.registry.registry import Registry
from graftwork.registry.transfer.importer import import_source
from graftwork.registry.versions.version import Kind, Relation, Version
from graftwork.settings import Settings

Make = Callable[..., Version]
BASE = Ref.parse("acme/base")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", threads=1)


@pytest.fixture
def registry(settings: Settings, bench: Any) -> Iterator[Registry]:
    """`acme/base`, and `acme/bad`, `acme/good` and `acme/fine` made of it."""
    paths, _ = bench.family(3)
    with Registry.open(settings) as opened:
        import_source(opened, paths[0], BASE.name)
        for name, path in zip(("bad", "good", "fine"), paths[1:], strict=True):
            import_source(opened, path, Name("acme", name), base=BASE)
        yield opened


@pytest.fixture
def merged(registry: Registry, settings: Settings) -> Make:
    """Merges by name and registers, `acme/bad` as its weight says."""

    def made(name: str, method: str, models: dict[str, float], *, base: bool = False, **more: Any) -> Version:
        recipe = {
            "merge_method": method,
            "models": [{"model": model, "parameters": {"weight": weight}} for model, weight in models.items()],
            **({"base_model": "acme/base"} if base else {}),
            **more,
        }
        return merge(load_recipe(recipe), registry=registry, settings=settings, name=name)

    return made


def rebuilt(registry: Registry, settings: Settings, ref: str, replace_by: str | None = None, **more: Any) -> Any:
    """What became of each descendant, by its first name."""
    planned = find_rebuild(registry, settings, ref, replace_by)
    outcomes = carry_out(planned, registry=registry, settings=settings, **more)
    return {outcome.as_json()["refs"][0]: outcome.as_json() for outcome in outcomes}


def test_descendants_are_rebuilt_in_order_and_are_what_a_merge_without_the_input_gives(
    registry: Registry, settings: Settings, merged: Make
) -> None:
    soup = merged("acme/soup", "linear", {"acme/bad": 0.5, "acme/good": 0.2, "acme/fine": 0.3})
    deep = merged("acme/deep", "ties", {"acme/soup": 0.7, "acme/fine": 0.4}, base=True, parameters={"density": 0.5})
    registry.aliases.set(soup.name, "prod", soup.digest)
    registry.marks.quarantine(registry.catalog.resolve("acme/bad"), actor="ada", reason="poisoned")

    told = rebuilt(registry, settings, "acme/bad", move_aliases=True, actor="ada")
    assert list(told) == ["acme/soup@v1", "acme/deep@v1"]
    assert told["acme/soup@v1"]["left_out"] == ["acme/bad@v1"]
    assert told["acme/soup@v1"]["notes"] == ["the method divides the weights that are left by their sum"]
    assert told["acme/soup@v1"]["aliases"] == [{"ref": "acme/soup@prod", "moved": True, "reason": ""}]
    assert told["acme/deep@v1"]["replaced"] == ["acme/soup@v1"]

    fresh = merged("fresh/soup", "linear", {"acme/good@v1": 0.2, "acme/fine@v1": 0.3})
    models = {"acme/soup@v2": 0.7, "acme/fine@v1": 0.4}
    deeper = merged("fresh/deep", "ties", models, base_model="acme/base@v1", parameters={"density": 0.5})
    for ref, other in (("acme/soup@v2", fresh), ("acme/deep@v2", deeper)):
        new = registry.catalog.resolve(ref)
        assert (new.digest, new.base) == (other.digest, other.base)
        registry.marks.require_usable(new)
        with pytest.raises(VersionQuarantined):
            registry.marks.require_usable(registry.catalog.resolve(ref.replace("@v2", "@v1")))
    edges = registry.lineage.parents(registry.catalog.resolve("acme/deep@v2").digest)
    assert edges[-1].relation == Relation.REBUILD_OF
    assert edges[-1].parent == deep.digest
    assert registry.catalog.resolve("acme/soup@prod").number == 2

    registry.marks.withdraw(deep, actor="ada", reason="rebuilt")
    registry.marks.withdraw(soup, actor="ada", reason="rebuilt")
    registry.marks.withdraw(registry.catalog.resolve("acme/bad@v1"), actor="ada", reason="poisoned")
    assert [step.reason for step in find_rebuild(registry, settings, "acme/bad@v1").steps] == ["it was withdrawn"] * 2


def test_a_rebuild_that_is_done_again_makes_nothing_new(registry: Registry, settings: Settings, merged: Make) -> None:
    merged("acme/soup", "linear", {"acme/bad": 1, "acme/good": 1, "acme/fine": 1})
    first, again = (rebuilt(registry, settings, "acme/bad") for _ in range(2))
    assert first == again
    assert [version.number for version in registry.catalog.versions(Name("acme", "soup"))] == [2, 1]


def test_another_version_may_take_the_place_of_the_input(
    registry: Registry, settings: Settings, merged: Make, bench: Any
) -> None:
    clean = bench.write("clean", bench.random(9, "F32", bench.read(bench.root / "model-0"), 0.02))
    import_source(registry, clean, Name("acme", "bad"), base=BASE)
    merged("acme/pair", "linear", {"acme/bad@v1": 0.5, "acme/good": 0.5})
    base = registry.catalog.resolve("acme/base")
    vector, _ = extract_version(
        "acme/bad@v1", "acme/base", Name("acme", "vector"), registry=registry, settings=settings
    )
    assert (vector.kind, vector.base) == (Kind.TASK_VECTOR, base.digest)
    told = rebuilt(registry, settings, "acme/bad@v1", "acme/bad@v2")
    assert [(step["how"], step["replaced"], step["notes"]) for step in told.values()] == [
        ("merge", ["acme/bad@v1"], []),
        ("extract", ["acme/bad@v1"], []),
    ]
    fresh, _ = extract_version(
        "acme/bad@v2", "acme/base", Name("fresh", "vector"), registry=registry, settings=settings
    )
    assert registry.catalog.resolve("acme/vector@v2").digest == fresh.digest
    pair = merged("fresh/pair", "linear", {"acme/bad@v2": 0.5, "acme/good@v1": 0.5})
    assert registry.catalog.resolve("acme/pair@v2").digest == pair.digest
    with pytest.raises(InvalidRequest, match="is what is to be replaced"):
        find_rebuild(registry, settings, "acme/bad@v1", "acme/bad@v1")
    with pytest.raises(InvalidRequest, match="of kind task_vector"):
        find_rebuild(registry, settings, "acme/bad@v1", "acme/vector@v2")


def test_what_cannot_be_rebuilt_is_named_with_the_reason_and_left_out_of_the_rest(
    registry: Registry, settings: Settings, merged: Make, bench: Any
) -> None:
    soup = merged("acme/soup", "linear", {"acme/bad": 1, "acme/good": 1, "acme/fine": 1})
    tuned = bench.write("tuned", bench.random(9, "F32", bench.read(bench.root / "model-0"), 0.02))
    import_source(registry, tuned, Name("acme", "tuned"), base=Ref.parse("acme/soup"))
    extract_version("acme/bad", "acme/base", Name("acme", "vector"), registry=registry, settings=settings)
    merged("acme/pair", "linear", {"acme/bad": 1, "acme/good": 1})
    merged("acme/forgotten", "task_arithmetic", {"acme/bad": -1, "acme/good": 1}, base=True)
    merged("acme/last", "task_arithmetic", {"acme/tuned": 1, "acme/soup": 1, "acme/pair": 1}, base=True)
    folder = {"acme/soup": 1, str(bench.root / "tuned"): 1}
    merged("acme/local", "linear", folder)
    told = rebuilt(registry, settings, "acme/bad")
    assert {ref: step["reason"] for ref, step in told.items()} == {
        "acme/soup@v1": None,
        "acme/tuned@v1": "it was registered as a fine-tune of acme/soup@v1, and how is not recorded here: "
        "train it again",
        "acme/vector@v1": "it is what acme/bad@v1 adds to acme/base@v1, and nothing else",
        "acme/pair@v1": "only acme/good@v1 is left, and linear of one model is that model",
        "acme/forgotten@v1": None,
        "acme/last@v1": None,
        "acme/local@v1": f"its recipe names {folder and list(folder)[1]}, which is no version of the registry",
    }
    assert told["acme/last@v1"]["left_out"] == ["acme/tuned@v1", "acme/pair@v1"]
    assert told["acme/last@v1"]["replaced"] == ["acme/soup@v1"]
    assert told["acme/forgotten@v1"]["notes"] == ["the weights that are left stay as they are"]
    inputs = {edge.parent for edge in registry.lineage.parents(registry.catalog.resolve("acme/last").digest)}
    assert registry.catalog.resolve("acme/soup@v2").digest in inputs
    assert soup.digest not in inputs
    assert not registry.marks.entries()


def test_a_base_cannot_be_left_out_and_another_quarantine_is_a_reason(
    registry: Registry, settings: Settings, merged: Make
) -> None:
    merged("acme/delta", "task_arithmetic", {"acme/good": 1}, base_model="acme/bad")
    merged("acme/soup", "linear", {"acme/bad": 1, "acme/good": 1, "acme/fine": 1})
    registry.marks.quarantine(registry.catalog.resolve("acme/fine"), actor="ada", reason="leaked")
    told = rebuilt(registry, settings, "acme/bad")
    assert told["acme/delta@v1"]["reason"] == "its base_model is acme/bad@v1"
    assert "acme/fine@v1 is quarantined (leaked)" in told["acme/soup@v1"]["reason"]
    with pytest.raises(InvalidRequest, match="nothing that was made of acme/bad@v1 can be rebuilt; of acme/delta@v1"):
        submit_rebuild(registry, RebuildOrder(ref="acme/bad"), settings=settings)
    with pytest.raises(InvalidRequest, match="nothing was made of acme/soup@v1"):
        submit_rebuild(registry, RebuildOrder(ref="acme/soup"), settings=settings)


def test_a_rebuild_runs_as_a_job_and_content_of_two_names_is_rebuilt_under_both(
    registry: Registry, settings: Settings, merged: Make
) -> None:
    for name in ("acme/soup", "other/soup"):
        merged(name, "linear", {"acme/bad": 1, "acme/good": 1, "acme/fine": 1})
    registry.aliases.set(Name("other", "soup"), "prod", registry.catalog.resolve("other/soup").digest)
    order = RebuildOrder(ref="acme/bad", move_aliases=True)
    job = submit_rebuild(registry, order, settings=settings, owner="ada")
    assert submit_rebuild(registry, order, settings=settings, owner="ada").id == job.id
    assert run_next(registry, settings, worker="test")
    ended = registry.jobs.get(job.id)
    assert (ended.state, ended.error_message) == (State.SUCCEEDED, None)
    result: Any = ended.result
    assert (result["rebuilt"], result["not_rebuilt"]) == (1, 0)
    assert result["steps"][0]["made"] == ["acme/soup@v2", "other/soup@v2"]
    assert registry.catalog.resolve("other/soup@prod").number == 2
    moves = registry.audit.entries(action="alias.move", target="other/soup")
    assert (moves[0].actor, moves[0].details["reason"]) == ("ada", "rebuilt for acme/bad@v1")


def test_nobody_rebuilds_where_they_may_not_write(registry: Registry, settings: Settings, merged: Make) -> None:
    for name in ("acme/soup", "other/soup"):
        merged(name, "linear", {"acme/bad": 1, "acme/good": 1, "acme/fine": 1})
    merged("third/deep", "linear", {"acme/soup": 1, "acme/good": 1})
    merged("secret/deeper", "linear", {"acme/soup": 2, "acme/good": 1})
    registry.repositories.set_private(Name("secret", "deeper"), True)
    with acting_for(Access("eve", Grants.parse({"acme": ["write"]}))):
        steps = [step.as_json() for step in find_rebuild(registry, settings, "acme/bad").steps]
    assert [(step["refs"], step["reason"]) for step in steps] == [
        (["acme/soup@v1"], None),
        (["third/deep@v1"], "eve may not write in third"),
        ([], "it is private"),
    ]
    assert "it stays as it is under other/soup@v1, where eve may not write" in steps[0]["notes"]


def test_what_lends_its_tokenizer_is_in_the_lineage(registry: Registry, settings: Settings, merged: Make) -> None:
    pair = merged("acme/pair", "linear", {"acme/good": 0.5, "acme/fine": 0.5}, tokenizer_source="acme/bad")
    donor = registry.catalog.resolve("acme/bad")
    edges = registry.lineage.parents(pair.digest)
    assert [edge.parent for edge in edges if edge.relation == Relation.TOKENIZER] == [donor.digest]
    registry.marks.quarantine(donor, actor="ada", reason="poisoned")
    with pytest.raises(VersionQuarantined):
        registry.marks.require_usable(pair)
    (told,) = rebuilt(registry, settings, "acme/bad").values()
    assert told["reason"] == "its tokenizer takes from acme/bad@v1"
