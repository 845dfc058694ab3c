"""What the OpenAPI document says of a server, asked of the server itself: requests are made by schemathesis."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis
import schemathesis
from hypothesis import HealthCheck, Phase
from schemathesis.checks import CheckFunction, not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from graftwork.api.application.app import create_app
from graftwork.api.application.server import running
from graftwork.registry.refs import Name, Ref
from graftwork.registry.registry import Registry
from graftwork.registry.transfer.importer import import_source
from graftwork.settings import Settings
from graftwork.testing.tiny import tiny_family

CHECKS: tuple[CheckFunction, ...] = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
)
KNOWN = {"namespace": "tiny", "name": "base", "revision": "v1", "alias": "prod", "tag": "nightly", "method": "ties"}
"""Values that lead somewhere, for half of the requests."""
ENDLESS = re.compile(r"/api/v1/jobs/\{job_id\}/events")


@dataclass(slots=True)
class Answers:
    """How often which operation was asked, which status came back how often, and what was wrong by operation."""

    asked: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    wrong: dict[str, str] = field(default_factory=dict)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """A server over `tiny/base` and an adapter; yields its URL."""
    settings = Settings(home=folder / "home", threads=1, memory=50_000_000, upload_part_bytes=1024)
    family = tiny_family(folder / "family", fine_tunes=0, adapters=1)
    with Registry.open(settings) as registry:
        import_source(registry, str(family.base), Name.parse("tiny/base"), aliases=["prod"])
        import_source(registry, str(family.adapters["adapter0"]), Name.parse("tiny/a"), base=Ref.parse("tiny/base"))
    with running(create_app(settings)) as url:
        yield url


def check(url: str, *, examples: int, seed: int, only: str = "") -> Answers:
    """Ask every operation of the server at `url` so many times."""
    answers = Answers()
    schema: Any = schemathesis.openapi.from_url(f"{url}/openapi.json")
    for found in schema.get_all_operations():
        operation = found.ok()
        label = f"{operation.method.upper()} {operation.path}"
        if re.search(only, label) and not ENDLESS.search(label):
            _ask(operation, label, answers, examples=examples, seed=seed)
    return answers


def _ask(operation: Any, label: str, answers: Answers, *, examples: int, seed: int) -> None:
    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=False,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @hypothesis.given(case=operation.as_strategy(), known=hypothesis.strategies.booleans())
    def ask(case: Any, known: bool) -> None:
        if known:
            case.path_parameters.update({key: KNOWN[key] for key in case.path_parameters if key in KNOWN})
        response = case.call(timeout=60)
        answers.asked[label] += 1
        answers.statuses[response.status_code] += 1
        try:
            case.validate_response(response, checks=CHECKS)
        except FailureGroup as error:
            answers.wrong.setdefault(f"{label} {response.status_code}", str(error)[:1500])

    with warnings.catch_warnings(action="ignore"):
        ask()
