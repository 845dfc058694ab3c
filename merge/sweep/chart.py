"""A sweep as a picture: the metric over the parameter with the most values, one line for every choice of the others."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape

from graftwork.merge.sweep.run import Outcome, Report

WIDTH, HEIGHT = 760, 440
LEFT, TOP, BOTTOM = 76, 56, 64
LEGEND, NO_LEGEND = 208, 32
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#882255")
INK, FAINT = "#222222", "#e3e3e3"
MOST_LINES = 15
"""Lines that have a name in the legend."""
MOST_LABELS = 12
WIDEST_NAME = 22
WIDEST_TITLE = 76


@dataclass(frozen=True, slots=True)
class Scale:
    """From values to pixels, with ticks; evenly spaced names where the values are not numbers."""

    values: tuple[Any, ...]
    low: float
    high: float
    begin: float
    end: float
    numeric: bool

    def at(self, value: Any) -> float:
        """The pixel of a value."""
        number = float(value) if self.numeric else self.values.index(value)
        span = self.high - self.low
        return self.begin + (self.end - self.begin) * ((number - self.low) / span if span else 0.5)


def draw(report: Report, metric: str, goal: str) -> str:
    """The chart as SVG. Points that failed are left out, and counted below."""
    outcomes = [outcome for outcome in report.outcomes if outcome.value is not None]
    axis = _axis(report.outcomes)
    lines = _lines(outcomes, axis)
    right = LEGEND if len(lines) > 1 else NO_LEGEND
    shown = _unique(outcome.point.values[axis] for outcome in report.outcomes)
    across = _across(shown, LEFT, WIDTH - right)
    up = _up([outcome.value for outcome in outcomes if outcome.value is not None])
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'font-family="Helvetica, Arial, DejaVu Sans, sans-serif" font-size="13" fill="{INK}">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        *_frame(across, up, axis, metric),
        *(part for place, (name, line) in enumerate(lines) for part in _line(place, name, line, axis, across, up)),
        *(_legend(lines, _heading(report.outcomes[0], axis), WIDTH - right + 20) if len(lines) > 1 else ()),
        *_title(report, metric, goal, axis, across, up),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _axis(outcomes: Sequence[Outcome]) -> str:
    """The path with the most values, numbers before others, the last among equals."""
    paths = list(outcomes[0].point.values)

    def weight(path: str) -> tuple[bool, int, int]:
        values = _unique(outcome.point.values[path] for outcome in outcomes)
        return len(values) > 1 and _numeric(values), len(values), paths.index(path)

    return max(paths, key=weight)


def _lines(outcomes: Sequence[Outcome], axis: str) -> list[tuple[str, list[Outcome]]]:
    lines: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        others = {path: value for path, value in outcome.point.values.items() if path != axis}
        name = _named(others) if len(others) > 1 else "".join(_text(value) for value in others.values())
        lines.setdefault(name, []).append(outcome)
    return list(lines.items())


def _across(values: tuple[Any, ...], begin: float, end: float) -> Scale:
    if _numeric(values):
        numbers = [float(value) for value in values]
        return Scale(tuple(sorted(numbers)), min(numbers), max(numbers), begin + 14, end - 14, numeric=True)
    return Scale(values, 0, len(values) - 1, begin + 40, end - 40, numeric=False)


def _up(values: Sequence[float]) -> Scale:
    """A scale with room above and below, whose ticks are round numbers."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    room = (high - low) * 0.12 or abs(high) * 0.05 or 1.0
    low, high = low - room, high + room
    step = _round_step((high - low) / 5)
    ticks = [count * step for count in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return Scale(tuple(ticks), low, high, HEIGHT - BOTTOM, TOP, numeric=True)


def _round_step(least: float) -> float:
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= least * 0.999)


def _frame(across: Scale, up: Scale, axis: str, metric: str) -> Iterator[str]:
    right = across.end + (14 if across.numeric else 40)
    decimals = _decimals(up.values)
    for tick in up.values:
        y = up.at(tick)
        yield f'<path d="M{LEFT} {y:.1f}H{right:.1f}" stroke="{FAINT}"/>'
        yield f'<text x="{LEFT - 10}" y="{y + 4.5:.1f}" text-anchor="end">{tick:.{decimals}f}</text>'
    yield f'<path d="M{LEFT} {HEIGHT - BOTTOM}H{right:.1f}" stroke="{INK}"/>'
    for value in _spread(across):
        x = across.at(value)
        yield f'<path d="M{x:.1f} {HEIGHT - BOTTOM}v5" stroke="{INK}"/>'
        yield f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{escape(_text(value))}</text>'
    yield f'<text x="{(LEFT + right) / 2:.1f}" y="{HEIGHT - 20}" text-anchor="middle">{escape(axis)}</text>'
    middle = (TOP + HEIGHT - BOTTOM) / 2
    yield f'<text transform="translate(18 {middle:.1f}) rotate(-90)" text-anchor="middle">{escape(metric)}</text>'


def _spread(across: Scale) -> list[Any]:
    """The values that get a label: as many as have room, from the left."""
    labelled: list[Any] = []
    least = (across.end - across.begin) / MOST_LABELS
    for value in across.values:
        if not labelled or across.at(value) - across.at(labelled[-1]) >= least:
            labelled.append(value)
    return labelled


def _line(place: int, name: str, line: Sequence[Outcome], axis: str, across: Scale, up: Scale) -> Iterator[str]:
    colour = COLOURS[place % len(COLOURS)]
    order = sorted(line, key=lambda outcome: across.at(outcome.point.values[axis]))
    spots = [(across.at(outcome.point.values[axis]), up.at(outcome.value)) for outcome in order]
    corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
    dashes = ' stroke-dasharray="6 4"' if place >= len(COLOURS) else ""
    if across.numeric:
        yield f'<polyline points="{corners}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>'
    for (x, y), outcome in zip(spots, order, strict=True):
        told = escape(f"{outcome.point.label}: {outcome.value:g}")
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"><title>{told}</title></circle>'


def _heading(outcome: Outcome, axis: str) -> str:
    """Whose values the lines are, where they are those of one path."""
    others = [path.rsplit(".", 1)[-1] for path in outcome.point.values if path != axis]
    return others[0] if len(others) == 1 else ""


def _legend(lines: Sequence[tuple[str, Any]], heading: str, left: float) -> Iterator[str]:
    yield f'<text x="{left:.0f}" y="{TOP + 4}" font-weight="bold">{escape(_cut(heading, WIDEST_NAME))}</text>'
    for place, (name, _) in enumerate(lines[:MOST_LINES]):
        y = TOP + 20.0 + 20 * place
        dashes = ' stroke-dasharray="6 4"' if place >= len(COLOURS) else ""
        colour = COLOURS[place % len(COLOURS)]
        yield f'<path d="M{left:.0f} {y}h18" stroke="{colour}" stroke-width="2"{dashes}/>'
        yield f'<text x="{left + 25:.0f}" y="{y + 4.5}">{escape(_cut(name, WIDEST_NAME))}</text>'
    if len(lines) > MOST_LINES:
        y = TOP + 24.5 + 20 * MOST_LINES
        yield f'<text x="{left + 25:.0f}" y="{y}">and {len(lines) - MOST_LINES} more</text>'


def _title(report: Report, metric: str, goal: str, axis: str, across: Scale, up: Scale) -> Iterator[str]:
    best = report.best
    if best is None:
        yield f'<text x="{LEFT}" y="30" font-size="15">No point succeeded</text>'
        return
    x, y = across.at(best.point.values[axis]), up.at(best.value)
    yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="8" fill="none" stroke="{INK}" stroke-width="1.5"/>'
    highest = "highest" if goal == "maximise" else "lowest"
    told = _cut(f"{metric}: {highest} {best.value:.4g} at {_named(best.point.values)}", WIDEST_TITLE)
    yield f'<text x="{LEFT}" y="30" font-size="15" font-weight="bold">{escape(told)}</text>'
    if report.failed:
        told = f"{len(report.failed)} of {len(report.outcomes)} points failed"
        yield f'<text x="{WIDTH - 20}" y="{HEIGHT - 20}" text-anchor="end">{told}</text>'


def _named(values: Mapping[str, Any]) -> str:
    """`density 0.2, lambda 0.5`: the last key of each path with its value."""
    return ", ".join(f"{path.rsplit('.', 1)[-1]} {_text(value)}" for path, value in values.items())


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _numeric(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _unique(values: Any) -> tuple[Any, ...]:
    return tuple({_text(value): value for value in values}.values())


def _decimals(ticks: Sequence[float]) -> int:
    """How many decimals tell the ticks apart."""
    step = ticks[1] - ticks[0] if len(ticks) > 1 else 1.0
    return next((places for places in range(8) if abs(round(step, places) - step) < step * 1e-6), 8)


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
