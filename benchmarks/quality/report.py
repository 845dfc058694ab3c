"""The table in docs/quality.md: written between two marks, so that the words around it stay."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.quality.candidates import Skipped
from benchmarks.quality.measurements import Failure, Row
from benchmarks.quality.scores import METRIC
from graftwork.merge.sweep.chart import draw
from graftwork.merge.sweep.run import Objective, Report

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def write_report(page: Path, measured: str) -> None:
    """Put `measured` between the marks of `page`, or make a page of it."""
    text = page.read_text(encoding="utf-8") if page.exists() else f"# Quality\n\n{BEGIN}\n{END}\n"
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(f"{before}{BEGIN}\n{measured}\n{END}{after}", encoding="utf-8")


def render(
    bounds: Sequence[Row],
    rows: Sequence[Row],
    crossed: Mapping[str, Mapping[str, float]],
    failures: Sequence[Failure],
    skipped: Sequence[Skipped],
    sizes: Mapping[str, int],
    command: str,
) -> str:
    """Markdown: accuracies by row, what was set, the fine-tunes on each other's tasks, what is left out."""
    ranked = sorted(rows, key=lambda row: -row.scores.normalised)
    return "\n".join(
        [
            f"`{command}`",
            "",
            *_accuracies(bounds, ranked, sizes),
            "",
            *_settings(ranked),
            "",
            *_crossed(crossed),
            *_left_out(failures, skipped),
        ]
    )


def chart(rows: Sequence[Row], path: str) -> str:
    """The search over one coefficient, a line for each row that searched it: mean normalised validation accuracy."""
    ranked = sorted(rows, key=lambda row: -row.scores.normalised)
    outcomes = tuple(
        replace(outcome, point=replace(outcome.point, values={"method": row.name, **outcome.point.values}))
        for row in ranked
        for outcome in row.search
        if path in outcome.point.values
    )
    return draw(Report(outcomes, Objective(METRIC, "maximise").best(outcomes), {}), METRIC, "maximise")


def _accuracies(bounds: Sequence[Row], rows: Sequence[Row], sizes: Mapping[str, int]) -> Iterator[str]:
    count = f"{sum(sizes.values()):,}"
    yield f"Accuracy in per cent on {count} test sentences; in brackets the share of the fine-tune's own accuracy at"
    yield "the task, whose mean is *normalised*. *Behind* is the distance to the best merge in points of *normalised*,"
    yield "with its standard error (the same sentences are compared): up to twice the error is no difference."
    yield ""
    yield f"| | {' | '.join(sizes)} | mean | normalised | behind | worst task | MB stored |"
    yield f"|---|{'---:|' * (len(sizes) + 3)}---|---:|"
    for row in (*bounds, *rows):
        scores = row.scores
        cells = [f"{100 * scores.accuracies[name]:.1f} ({100 * scores.relative[name]:.0f})" for name in sizes]
        worst = f"{scores.worst} {100 * scores.relative[scores.worst]:.0f}"
        means = f"{100 * scores.mean:.1f} | **{100 * scores.normalised:.1f}** | {_behind(row, rows)}"
        yield f"| {row.name} | {' | '.join(cells)} | {means} | {worst} | {row.stored / 1e6:.0f} |"


def _behind(row: Row, rows: Sequence[Row]) -> str:
    if row not in rows[1:]:
        return ""
    distance, error = row.scores.behind(rows[0].scores)
    return f"{100 * distance:.1f} ± {100 * error:.1f}"


def _settings(rows: Sequence[Row]) -> Iterator[str]:
    yield "What was fixed, and the coefficient with the highest mean normalised accuracy on validation data:"
    yield ""
    yield "| | fixed | chosen |"
    yield "|---|---|---|"
    for row in rows:
        yield f"| {row.name} | {row.settings} | {row.coefficient} |"


def _crossed(crossed: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    yield "Each fine-tune at every task (test accuracy in per cent):"
    yield ""
    yield f"| fine-tuned for | {' | '.join(crossed)} |"
    yield f"|---|{'---:|' * len(crossed)}"
    for name, accuracies in crossed.items():
        yield f"| {name} | {' | '.join(f'{100 * accuracies[other]:.1f}' for other in crossed)} |"


def _left_out(failures: Sequence[Failure], skipped: Sequence[Skipped]) -> Iterator[str]:
    if failures:
        yield ""
        yield "Failed:"
        yield from (f"- {failure.name}: {failure.reason}" for failure in failures)
    if skipped:
        yield ""
        yield "Methods without a row:"
        for reason in dict.fromkeys(entry.reason for entry in skipped):
            names = ", ".join(f"`{entry.method}`" for entry in skipped if entry.reason == reason)
            yield f"- {names}: {reason}"
