"""`graft evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from graftwork.api.schemas.evaluations import EvaluationOut
from graftwork.cli.bars import progress_bars
from graftwork.cli.options import home_option, json_option
from graftwork.cli.render import digest, print_json, say, show_table, table
from graftwork.registry.registry import Registry
from graftwork.settings import load_settings


@click.command()
@click.argument("ref")
@click.option("--dataset", metavar="REF", help="Evaluate on this dataset of the registry.")
@click.option("--evaluator", metavar="NAME", help="Evaluate by this command of the setting evaluators.")
@click.option("--metric", "metrics", multiple=True, metavar="METRIC", help="Only this metric; may be repeated.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Use the first N examples of the dataset.")
@home_option
@json_option
def evaluate(
    ref: str,
    dataset: str | None,
    evaluator: str | None,
    metrics: tuple[str, ...],
    limit: int | None,
    home: Path | None,
    as_json: bool,
) -> None:
    """Measure a version on a dataset or by a command.

    The numbers are kept with the version: 'graft show' shows them, and what was measured before is found. A dataset is
    a JSONL file, imported with --kind dataset; its fields say what is measured: exact_match (prompt, answer),
    multiple_choice (prompt, options, answer), perplexity (text) or accuracy (text, label).

    \b
    Example:
        graft evaluate acme/support@prod --dataset acme/questions
    """
    from graftwork.merge.evaluation.by_version import evaluate as measure
    from graftwork.merge.evaluation.yardstick import Yardstick

    if (dataset is None) == (evaluator is None):
        raise click.UsageError("give --dataset or --evaluator, one of them.")
    if evaluator is not None and limit is not None:
        raise click.UsageError("--limit belongs to --dataset.")
    settings = load_settings(home=home)
    yardstick = Yardstick(dataset=dataset, evaluator=evaluator, limit=limit)
    with Registry.open(settings) as registry, progress_bars() as progress:
        version = registry.catalog.resolve(ref)
        found = measure(registry, settings, version, yardstick, metrics, progress=progress)
    if as_json:
        print_json({"ref": version.ref, "digest": version.digest, "known": found.known, "metrics": dict(found.metrics)})
        return
    for metric, value in found.metrics.items():
        before = " (measured before)" if found.known else ""
        say(f"{version.ref} {metric} {value:.6g} on {yardstick.label}{before}")


def show_evaluations(found: Sequence[EvaluationOut]) -> None:
    """A table of what is known of one version."""
    grid = table("evaluated on", "metric", "value", "digest", right=("value",))
    for one in found:
        grid.add_row(
            one.dataset, one.metric, f"{one.value:.6g}", digest(one.dataset_digest) if one.dataset_digest else ""
        )
    show_table(grid)
