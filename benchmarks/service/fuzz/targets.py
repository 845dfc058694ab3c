"""Everything that is fuzzed."""

from __future__ import annotations

from benchmarks.service.fuzz.content import Adapters, Checkpoints, ExpertSets, Headers
from benchmarks.service.fuzz.requests import Bodies, Names, Plans, Recipes, Sweeps
from benchmarks.service.fuzz.watch import Target


def targets() -> list[Target]:
    """One of each."""
    return [
        Headers(),
        Adapters("peft", slice(0, 5)),
        Adapters("other adapters", slice(5, None)),
        Checkpoints(),
        ExpertSets(),
        Recipes(),
        Plans(),
        Sweeps(),
        Bodies(),
        Names(),
    ]
