"""What each merge method is tried with: what stays fixed, and the one coefficient that validation data choose."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graftwork.merge.method import Method, methods

SUM = (0.2, 0.3, 0.4, 0.5, 0.6, 0.8)
"""Coefficients for a sum of five task vectors."""
TRIMMED = (0.4, 0.6, 0.8, 1.0, 1.3, 1.6)
"""Coefficients for a sum of what is left of the task vectors."""
MEAN = (0.6, 0.8, 1.0, 1.3, 1.6, 2.0)
"""Coefficients for a mean of the task vectors that agree."""
SLOPE = (0.2, 0.4, 0.6, 0.8, 1.1, 1.5)
"""How much more the last layer gets than the first."""
CHANGES = (1e-5, 2e-4, 5e-4, 1e-3, 2e-3)
"""From what size on a difference from the base counts as a change."""
LAMBDA = "parameters.lambda"
BETA = "modifiers[0].lines.beta"
LINES = ({"lines": {"alpha": "auto", "beta": 0.0}},)
DENSITY = 0.2


@dataclass(frozen=True, slots=True)
class Candidate:
    """One row of the table. `path` is the coefficient's place in the recipe; without one nothing is searched."""

    method: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    path: str | None = None
    values: tuple[Any, ...] = ()
    modifiers: tuple[Mapping[str, Any], ...] = ()
    note: str = ""

    @property
    def name(self) -> str:
        """The method, with what sets this row apart from the method's other rows."""
        return f"{self.method}{self.note and f', {self.note}'}"

    @property
    def folder(self) -> str:
        """The name as part of a path."""
        return self.name.replace(", ", "-").replace(" ", "-")

    def recipe(self, base: Path, fine_tunes: Iterable[Path]) -> dict[str, Any]:
        """The recipe, all models with equal weight."""
        return {
            "merge_method": self.method,
            "base_model": str(base),
            "models": [{"model": str(folder)} for folder in fine_tunes],
            "parameters": dict(self.parameters),
            **({"modifiers": list(self.modifiers)} if self.modifiers else {}),
        }

    @property
    def grid(self) -> dict[str, tuple[Any, ...]]:
        """The sweep's grid; a grid of one point where nothing is searched."""
        return {self.path: self.values} if self.path is not None else {"seed": (0,)}

    @property
    def settings(self) -> str:
        """The fixed parameters in a few words."""
        return ", ".join(f"{name} {value}" for name, value in self.parameters.items()) or "-"


CANDIDATES = (
    Candidate("linear"),
    Candidate("karcher"),
    Candidate("multislerp", {"weight": 1.0}),
    Candidate("model_stock"),
    Candidate("task_arithmetic", {}, LAMBDA, SUM),
    Candidate("task_arithmetic", {}, BETA, SLOPE, LINES, note="lines"),
    Candidate("ties", {"density": DENSITY}, LAMBDA, MEAN),
    Candidate("ties", {"density": DENSITY, "variant": "paper"}, LAMBDA, MEAN, note="paper"),
    Candidate("ties", {"density": DENSITY}, BETA, (0.6, 1.1, 1.5, 2.0, 3.0), LINES, note="lines"),
    Candidate("dare_linear", {"density": DENSITY}, LAMBDA, SUM),
    Candidate("dare_ties", {"density": DENSITY}, LAMBDA, SUM),
    Candidate("della_linear", {"density": DENSITY, "epsilon": 0.1}, LAMBDA, SUM),
    Candidate("della", {"density": DENSITY, "epsilon": 0.1}, LAMBDA, (0.3, 0.4, 0.5, 0.6, 0.8, 1.0)),
    Candidate("breadcrumbs", {"density": DENSITY, "gamma": 0.01}, LAMBDA, TRIMMED),
    Candidate("breadcrumbs_ties", {"density": DENSITY, "gamma": 0.01}, LAMBDA, TRIMMED),
    Candidate("consensus_ta", {"mask_lambda": 0.4, "min_agree": 2}, LAMBDA, TRIMMED),
    Candidate("consensus_ties", {"density": DENSITY, "mask_lambda": 0.4, "min_agree": 2}, LAMBDA, TRIMMED),
    Candidate("sce", {}, "parameters.select_topk", (0.1, 0.2, 0.4, 0.7, 1.0)),
    Candidate("ram", {}, "parameters.epsilon", CHANGES),
    Candidate("ramplus_tl", {}, "parameters.epsilon", CHANGES),
)
EXPLAINED = {
    "passthrough": "it takes one model",
    "atlas_apply": "it applies coefficients that are learnt elsewhere; with one for all it is task_arithmetic",
    "ema_toward_mean": "it moves the newest of a row of models; from the base it is task_arithmetic",
    "twin_shared": "alone it is task_arithmetic; its experts are apart from the merged model",
    "rws": "it applies a robustness patch, it does not merge tasks",
    "weight_matching": "it permutes the neurons of models trained apart; these share their base",
}
"""Methods that have no row, and why, where it does not show in the method itself."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A method without a row, and the reason."""

    method: str
    reason: str


def choose(models: int, only: Iterable[str] = ()) -> tuple[tuple[Candidate, ...], tuple[Skipped, ...]]:
    """The rows that can be measured here, and every method there is that has none."""
    known = methods()
    chosen = [candidate for candidate in CANDIDATES if candidate.method in known]
    fitting = tuple(candidate for candidate in chosen if _reason(known[candidate.method], models) is None)
    rows = {candidate.method for candidate in fitting}
    skipped = tuple(
        Skipped(name, EXPLAINED.get(name) or _reason(method, models) or "it has no entry in candidates.py")
        for name, method in known.items()
        if name not in rows
    )
    wanted = set(only)
    return tuple(candidate for candidate in fitting if not wanted or candidate.method in wanted), skipped


def _reason(method: Method, models: int) -> str | None:
    if method.space == "adapter":
        return "it merges adapters, and these are fine-tunes of all weights"
    least, most = method.models
    if most is not None and most < models:
        return f"it takes {most if most == least else f'at most {most}'} besides the base, and there are {models} tasks"
    return None
