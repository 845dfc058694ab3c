"""Recipes of several documents, whose names stand for their results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from graftwork.errors import GraftworkError, InvalidRecipe, NonFiniteTensor
from graftwork.merge.plan.plan import plan
from graftwork.merge.recipe.recipe import digest, load_recipe
from graftwork.merge.run import steps
from graftwork.merge.run.folder.folder import write_folder
from graftwork.merge.run.run import merge
from graftwork.settings import Settings


def text(*documents: dict[str, Any]) -> str:
    return yaml.safe_dump_all(documents, sort_keys=False)


def average(*models: str, **more: Any) -> dict[str, Any]:
    return {"merge_method": "linear", "models": [{"model": model} for model in models], **more}


@pytest.fixture
def chain(bench: Any) -> Any:
    paths, weights = bench.family(3)
    source = text(
        average("second", paths[3]),
        average(paths[0], paths[1], name="first"),
        average("first", paths[2], name="second"),
    )
    return source, weights


def test_later_merges_use_the_results_of_earlier_ones_in_any_order(bench: Any, chain: Any) -> None:
    source, (base, a, b, c) = chain
    recipe = load_recipe(source)
    assert [step.name for step in recipe.steps] == ["first", "second"]
    got = bench.merge(recipe)
    for name, values in got.items():
        first = (base[name].astype(np.float64) + a[name]) / 2
        np.testing.assert_allclose(values, ((first + b[name]) / 2 + c[name]) / 2, rtol=1e-5, atol=1e-6)
    assert sorted(path.name for path in bench.root.iterdir() if path.name.startswith("merged")) == ["merged"]
    written = (bench.root / "merged" / "recipe.yaml").read_text()
    assert digest(load_recipe(written)) == digest(recipe)


def test_without_an_unnamed_document_the_last_is_the_result(bench: Any) -> None:
    paths, (_, a) = bench.family(1)
    halved = {"merge_method": "passthrough", "parameters": {"scale": 0.5}}
    source = text(
        {**halved, "name": "half", "models": [{"model": paths[1]}]},
        {**halved, "name": "quarter", "models": [{"model": "half"}]},
    )
    got = bench.merge(load_recipe(source))
    np.testing.assert_array_equal(got["model.layers.0.mlp.weight"], a["model.layers.0.mlp.weight"] / 4)


def test_a_step_can_be_a_base_and_its_own_parameters_count_in_the_digest(bench: Any) -> None:
    paths, _ = bench.family(2)
    final = {"merge_method": "ties", "base_model": "soup", "models": [{"model": paths[1]}]}
    recipes = [
        load_recipe(text({**average(paths[0], paths[2], name="soup"), "parameters": {"weight": weight}}, final))
        for weight in (1, 2)
    ]
    assert digest(recipes[0]) != digest(recipes[1])
    assert bench.merge(recipes[0]).keys() == bench.merge(recipes[1], "second").keys()


def test_planning_writes_nothing_and_looks_at_every_step(bench: Any, chain: Any) -> None:
    before = sorted(bench.root.iterdir())
    planned = plan(load_recipe(chain[0]), settings=Settings(), out=bench.root / "merged")
    planned.close()
    assert planned.summary()["tensors_merged"] == 7
    assert sorted(bench.root.iterdir()) == before
    with pytest.raises(InvalidRecipe, match="ties needs a base_model"):
        bench.merge(load_recipe(chain[0].replace("linear", "ties", 1)))
    assert sorted(bench.root.iterdir()) == before


def test_an_interrupted_chain_goes_on_after_the_steps_that_are_done(
    bench: Any, chain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(chain[0])
    done: list[str] = []

    def interrupted(planned: Any, out: Path, *rest: Any) -> Any:
        if out.name == "second" and len(done) == 1:
            done.append("interrupted")
            raise KeyboardInterrupt
        done.append(out.name)
        return write_folder(planned, out, *rest)

    monkeypatch.setattr(steps, "write_folder", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bench.merge(recipe)
    resumed = bench.merge(recipe)
    assert done == ["first", "interrupted", "second"]
    undisturbed = bench.merge(recipe, "again")
    assert all(np.array_equal(resumed[name], values) for name, values in undisturbed.items())


def test_a_step_is_done_again_when_an_input_changed(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, (base, a) = bench.family(1)
    recipe = load_recipe(text(average(paths[0], paths[1], name="first"), average("first", paths[0])))
    with monkeypatch.context() as patch:
        patch.setattr("graftwork.merge.run.run.write_folder", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            bench.merge(recipe)
    file = Path(paths[1]) / "model.safetensors"
    bench.write("changed", {name: np.asarray(values * 3) for name, values in a.items()})
    (bench.root / "changed" / "model.safetensors").rename(file)
    name = "model.layers.1.mlp.weight"
    wanted = ((base[name].astype(np.float64) + 3 * a[name]) / 2 + base[name]) / 2
    np.testing.assert_allclose(bench.merge(recipe)[name], wanted, rtol=1e-5, atol=1e-6)


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("documents", "said"),
    [
        ([average("x"), average("y")], "only one of several documents may be without a name"),
        ([average("x", name="n"), average("y", name="n"), average("n")], "two documents are called n"),
        ([average("b", name="a"), average("a", name="b"), average("a")], "is made from itself"),
        ([average("x", name="a"), average("y")], "name: a: no other document uses its result"),
        ([average("x", name="a/b"), average("a/b")], "at name"),
    ],
)
def test_documents_that_do_not_fit_together_are_refused(documents: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(InvalidRecipe, match=said):
        load_recipe(text(*documents))


def test_what_is_wrong_with_a_step_is_said_before_anything_is_merged(bench: Any) -> None:
    paths, _ = bench.family(1)
    recipe = load_recipe(text(average(paths[0], "nowhere", name="first"), average("first", paths[1])))
    with pytest.raises(GraftworkError, match="nowhere"):
        merge(recipe, out=bench.root / "merged", settings=Settings())
    assert not (bench.root / "merged.steps").exists()


def test_a_step_that_fails_leaves_nothing(bench: Any) -> None:
    _, (base, a) = bench.family(1)
    base["model.norm.weight"][3] = np.nan
    paths = [bench.write("broken", base), bench.write("whole", a)]
    before = sorted(bench.root.iterdir())
    with pytest.raises(NonFiniteTensor, match="broken"):
        bench.merge(load_recipe(text(average(paths[1], name="a"), average(*paths, name="b"), average("a", "b"))))
    assert sorted(bench.root.iterdir()) == before
