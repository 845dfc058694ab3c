"""`graft evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from graftwork.api.schemas.evaluations import EvaluationOut
from graftwork.cli.bars import progress_bars, waited
from graftwork.cli.options import json_option
from graftwork.cli.place import Place, place_option
from graftwork.cli.render import digest, print_json, show_table, table, tell
from graftwork.client import evaluations as calls

if TYPE_CHECKING:
    from graftwork.client import Client
    from graftwork.registry.registry import Registry


@click.command()
@click.argument("ref")
@click.option("--dataset", metavar="REF", help="Evaluate on this dataset of the registry.")
@click.option("--evaluator", metavar="NAME", help="Evaluate by this command of the setting evaluators.")
@click.option("--metric", "metrics", multiple=True, metavar="METRIC", help="Only this metric; may be repeated.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Use the first N examples of the dataset.")
@place_option
@json_option
def evaluate(
    ref: str,
    dataset: str | None,
    evaluator: str | None,
    metrics: tuple[str, ...],
    limit: int | None,
    place: Place,
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
    from graftwork.merge.evaluation.yardstick import Yardstick

    if (dataset is None) == (evaluator is None):
        raise click.UsageError("give --dataset or --evaluator, one of them.")
    if evaluator is not None and limit is not None:
        raise click.UsageError("--limit belongs to --dataset.")
    yardstick = Yardstick(dataset=dataset, evaluator=evaluator, limit=limit)
    with progress_bars() as progress:

        def here(registry: Registry) -> dict[str, Any]:
            from graftwork.merge.evaluation.by_version import evaluate as measure

            version = registry.catalog.resolve(ref)
            found = measure(registry, place.settings, version, yardstick, metrics, progress=progress)
            return {"ref": version.ref, "digest": version.digest, "known": found.known, "metrics": dict(found.metrics)}

        def there(graft: Client) -> dict[str, Any]:
            job = graft(calls.submit(ref, dataset=dataset, evaluator=evaluator, metrics=metrics, limit=limit))
            result = waited(graft, job, progress).result or {}
            known = {"known": result["found"], "metrics": result["metrics"]}
            return {"ref": result["ref"], "digest": result["digest"], **known}

        found = place(here, there)
    if as_json:
        print_json(found)
        return
    for metric, value in found["metrics"].items():
        before = " (measured before)" if found["known"] else ""
        tell(f"{found['ref']} {metric} {value:.6g} on {yardstick.label}{before}")


def show_evaluations(found: Sequence[EvaluationOut]) -> None:
    """A table of what is known of one version."""
    grid = table("evaluated on", "metric", "value", "digest", right=("value",))
    for one in found:
        grid.add_row(
            one.dataset, one.metric, f"{one.value:.6g}", digest(one.dataset_digest) if one.dataset_digest else ""
        )
    show_table(grid)
