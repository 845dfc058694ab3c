"""Thousands of inputs that are nearly valid: only a GraftworkError comes out, and nothing is left open or on disk."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from benchmarks.service.fuzz.targets import targets
from benchmarks.service.fuzz.watch import Target, fuzz

CASES = {"plans": 100, "sweeps": 40, "names": 2000}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("target", targets(), ids=lambda target: target.name)
def test_nothing_else_comes_out(target: Target) -> None:
    tally = fuzz(target, seed=0, cases=CASES.get(target.name, 400), seconds=30.0)
    assert tally.failures == {}
    assert 0 < tally.refused < tally.cases
