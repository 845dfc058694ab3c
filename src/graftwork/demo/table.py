"""The demo's table: which model answers which skill how well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table
from transformers import PreTrainedTokenizerFast

from graftwork.demo.recipes import MERGES
from graftwork.progress import Progress
from graftwork.testing.accuracy import accuracy
from graftwork.testing.cores import one_core
from graftwork.testing.family import Family
from graftwork.testing.model import load_adapted_model, load_model
from graftwork.testing.skills import Skill

BASE, FINE_TUNE, ADAPTER = "base", "own\nfine-tune", "own\nadapter"
GOOD = 0.9


@dataclass(frozen=True, slots=True)
class Accuracies:
    """Exact-match accuracy by column and skill; a merge's column is the merge's name."""

    columns: Mapping[str, Mapping[str, float]]
    prompts: int
    """Test prompts of each skill."""

    def average(self, column: str) -> float:
        """The mean over the skills."""
        values = self.columns[column].values()
        return sum(values) / len(values)


def measure(
    family: Family, merged: Mapping[str, Path], skills: Sequence[Skill], *, prompts: int, progress: Progress
) -> Accuracies:
    """Greedy answers of every model to held-out prompts, in transformers; `merged` has folders by merge name."""
    tests = {skill.name: skill.examples(prompts, split="test") for skill in skills}
    columns: dict[str, dict[str, float]] = {name: {} for name in (BASE, FINE_TUNE, ADAPTER, *merged)}
    models: list[tuple[str, Path, Path | None, Sequence[str]]] = [(BASE, family.base, None, list(tests))]
    models += [(FINE_TUNE, family.fine_tunes[name], None, [name]) for name in tests]
    models += [(ADAPTER, family.base, family.adapters[name], [name]) for name in tests]
    for merge in MERGES:
        folder = merged[merge.name]
        base, adapter = (family.base, folder) if merge.of_adapters else (folder, None)
        models.append((merge.name, base, adapter, list(tests)))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(family.base)
    for done, (column, folder, adapter, names) in enumerate(models, start=1):
        model = load_model(folder) if adapter is None else load_adapted_model(folder, adapter)
        with one_core():
            for name in names:
                columns[column][name] = accuracy(model, tokenizer, tests[name])
        progress("evaluate", done, len(models))
    return Accuracies(columns, prompts)


def render(accuracies: Accuracies) -> Table:
    """One row a skill and their average, one column a model; in percent."""
    titles = {merge.name: merge.title for merge in MERGES}
    table = Table(
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        caption=f"percent of {accuracies.prompts} held-out prompts a skill answered exactly, greedy decoding",
    )
    table.add_column("skill", vertical="bottom")
    for column in accuracies.columns:
        table.add_column(titles.get(column, column), justify="right", vertical="bottom")
    for skill in accuracies.columns[BASE]:
        table.add_row(skill, *(_cell(column, values[skill]) for column, values in accuracies.columns.items()))
    table.add_section()
    table.add_row("average", *(_cell(column, accuracies.average(column)) for column in accuracies.columns))
    return table


def _cell(column: str, share: float) -> str:
    style = "dim" if column == BASE else "bold green" if share >= GOOD else "yellow"
    return f"[{style}]{100 * share:.0f}[/]"
