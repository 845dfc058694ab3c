"""The sorts of jobs: each is a file of `kinds/` that says what it is told and what it does."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from graftwork.errors import GraftworkError, InvalidRequest
from graftwork.merge.jobs.work import Work
from graftwork.merge.recipe.problem import first_problem, reason_of
from graftwork.registry.access.access import require
from graftwork.registry.access.grants import EVERYWHERE, Scope
from graftwork.registry.registry import Registry
from graftwork.settings import Settings

MODULES = {
    "gc": "graftwork.merge.jobs.kinds.gc",
    "merge": "graftwork.merge.jobs.kinds.merge",
    "evaluate": "graftwork.merge.jobs.kinds.evaluate",
    "sweep": "graftwork.merge.jobs.kinds.sweep",
    "extract": "graftwork.merge.jobs.kinds.extract",
    "import": "graftwork.merge.jobs.kinds.import_model",
    "rebuild": "graftwork.merge.jobs.kinds.rebuild",
}


class Order(BaseModel):
    """What a job is told; a key that its kind does not know is an error."""

    model_config = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True)
class Fired:
    """The payload of a job whose time came, and why it need not be carried out, if it need not."""

    payload: Mapping[str, Any]
    skipped: str | None = None


@dataclass(frozen=True, slots=True)
class Kind:
    """A sort of job. `run` returns the job's result, unless it finished the job itself with what it registered."""

    name: str
    payload: type[BaseModel]
    run: Callable[[Work, Any], Mapping[str, Any] | None]
    shares: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Where each stage of its progress begins, and how much of the whole it is."""
    retried: tuple[type[GraftworkError], ...] = ()
    """Failures after which another attempt may succeed."""
    template: type[BaseModel] | None = None
    """What a schedule of such jobs keeps, where that is not a payload."""
    fire: Callable[[Registry, Any], Fired] | None = None
    """Makes the payload of a job from what the schedule keeps, when its time comes; without it, it is the payload."""
    check: Callable[[Registry, Settings, Any], None] | None = None
    """Raises what is already wrong with what a schedule is to keep."""
    note: Callable[[Registry, Any], str | None] | None = None
    """What to know of a schedule that is not wrong, and yet would fail now."""
    for_admins: bool = False
    """Whether only whoever may do everything may ask for such a job."""

    def parse(self, payload: Mapping[str, Any]) -> Any:
        """The payload as the kind's own type. Raises InvalidRequest naming the field that is wrong, Forbidden."""
        return self._parsed(self.payload, payload)

    def parse_template(self, payload: Mapping[str, Any]) -> Any:
        """What a schedule keeps, as the kind's own type. Raises what `parse` does."""
        return self._parsed(self.template or self.payload, payload)

    def _parsed(self, form: type[BaseModel], payload: Mapping[str, Any]) -> Any:
        if self.for_admins:
            require(Scope.ADMIN, EVERYWHERE)
        try:
            return form.model_validate(payload)
        except ValidationError as error:
            problem = first_problem(error)
            where = ".".join(["payload", *map(str, problem["loc"])])
            raise InvalidRequest(field=where, reason=reason_of(problem, form)) from None


def kind_named(name: str) -> Kind:
    """The kind of that name. Raises InvalidRequest naming the ones there are."""
    if name not in MODULES:
        raise InvalidRequest(field="kind", reason=f"there is no kind of job {name!r}; there is {', '.join(MODULES)}")
    kind: Kind = importlib.import_module(MODULES[name]).KIND
    return kind
