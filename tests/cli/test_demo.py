import io
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from graftwork.demo.recipes import MERGES
from graftwork.demo.run import Outcome, run
from graftwork.registry.registry import Registry
from graftwork.settings import load_settings
from graftwork.testing.family import FamilyPlan
from graftwork.testing.model import Shape
from graftwork.testing.training import Schedule

SHORT = Schedule(steps=2, learning_rate=1e-3, batch=8)
PLAN = FamilyPlan(shape=Shape(layers=2, hidden=32, intermediate=64), base=SHORT, fine_tune=SHORT, adapter=SHORT)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome, str]:
    """The whole demo with models that have learned nothing."""
    home = tmp_path_factory.mktemp("home")
    screen = io.StringIO()
    outcome = run(home, plan=PLAN, prompts=4, console=Console(file=screen, width=100))
    return home, outcome, screen.getvalue()


def test_the_table_has_every_model_on_every_skill(demo: tuple[Path, Outcome, str]) -> None:
    _, outcome, screen = demo
    columns = outcome.accuracies.columns
    assert len(columns) == 3 + len(MERGES)
    assert all(list(values) == [skill.name for skill in PLAN.skills] for values in columns.values())
    for word in ("reverse", "sort", "upper", "shift", "average", "TIES", "LEGO", "own"):
        assert word in screen


def test_everything_is_registered_with_its_lineage(demo: tuple[Path, Outcome, str]) -> None:
    home, _, _ = demo
    with Registry.open(load_settings(home=home)) as registry:
        names = {str(artifact.name) for artifact in registry.catalog.list(namespace="demo")}
        skills = {skill.name for skill in PLAN.skills}
        assert names == (
            {"demo/base", "demo/helper"}
            | {f"demo/{name}" for name in skills}
            | {f"demo/{name}-ft" for name in skills}
            | {merge.artifact for merge in MERGES}
        )
        for merge in MERGES:
            version = registry.catalog.resolve(merge.artifact)
            parents = {edge.parent for edge in registry.lineage.parents(version.digest)}
            inputs = [f"demo/{name}" if merge.of_adapters else f"demo/{name}-ft" for name in skills]
            assert {registry.catalog.resolve(name).digest for name in inputs} <= parents


def test_the_recipes_are_there_to_read(demo: tuple[Path, Outcome, str]) -> None:
    home, _, _ = demo
    for merge in MERGES:
        recipe = yaml.safe_load((home / "recipes" / f"{merge.name}.yaml").read_text())
        assert len(recipe["models"]) == len(PLAN.skills)


def test_each_adapter_answered_with_its_own_version(demo: tuple[Path, Outcome, str]) -> None:
    _, outcome, _ = demo
    versions = [reply.version for reply in outcome.batch.replies]
    assert len(versions) == len(PLAN.skills) + 1
    assert len(set(versions)) == len(versions)


def test_the_alias_moved_under_load_and_both_versions_answered(demo: tuple[Path, Outcome, str]) -> None:
    _, outcome, screen = demo
    swap = outcome.swap
    (before,) = {reply.version for reply in swap.before}
    (after,) = {reply.version for reply in swap.after}
    assert before != after
    assert {reply.version for reply in swap.during} <= {before, after}
    assert before[:12] in screen
    assert after[:12] in screen


def test_a_second_run_uses_the_family_again_and_registers_nothing_new(demo: tuple[Path, Outcome, str]) -> None:
    home, outcome, _ = demo
    trained = {path: path.stat().st_mtime_ns for path in (home / "family").rglob("*.safetensors")}
    screen = io.StringIO()
    again = run(home, plan=PLAN, prompts=4, console=Console(file=screen, width=100))
    assert {path: path.stat().st_mtime_ns for path in (home / "family").rglob("*.safetensors")} == trained
    assert "trained here before" in screen.getvalue()
    assert [reply.version for reply in again.batch.replies] == [reply.version for reply in outcome.batch.replies]
    with Registry.open(load_settings(home=home)) as registry:
        numbers = {str(artifact.name): artifact.versions for artifact in registry.catalog.list(namespace="demo")}
    assert numbers.pop("demo/helper") == 2
    assert set(numbers.values()) == {1}
