"""What another process needs to make the same plan, and the check that it did."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from graftwork.errors import OperationFailed
from graftwork.merge.plan.identity import identity
from graftwork.merge.plan.plan import Plan, plan
from graftwork.merge.recipe.recipe import Recipe
from graftwork.settings import Settings

if TYPE_CHECKING:
    from graftwork.registry.registry import Registry


@dataclass(frozen=True, slots=True)
class Order:
    """A plan as the arguments that led to it, and its identity."""

    recipe: Recipe
    settings: Settings
    registered: bool
    paths: bool
    steps: Mapping[str, Path]
    folder: Path
    merge: str

    @classmethod
    def of(cls, planned: Plan) -> Order:
        """The order for a plan of this process, whose relative paths are meant from its working folder."""
        finder = planned.finder
        return cls(
            recipe=planned.recipe,
            settings=planned.settings,
            registered=finder.registry is not None,
            paths=finder.paths,
            steps=finder.steps,
            folder=Path.cwd(),
            merge=identity(planned),
        )

    def plan(self) -> Plan:
        """Plan it here, from headers. Raises what `plan` raises, OperationFailed when it is another plan here."""
        with suppress(FileNotFoundError):  # then it names no relative path, or that path is said to be missing
            os.chdir(self.folder)
        with _registry(self.settings) if self.registered else nullcontext() as registry:
            planned = plan(
                self.recipe, settings=self.settings, registry=registry, paths=self.paths, steps=dict(self.steps)
            )
        if not isinstance(planned, Plan) or identity(planned) != self.merge:
            reason = "its files or its Graftwork are not those of the machine that began; all need the same of both"
            raise OperationFailed(what=f"Planning the merge on {platform.node()}", reason=reason)
        return planned


def _registry(settings: Settings) -> AbstractContextManager[Registry]:
    from graftwork.registry.registry import Registry  # and with it SQLAlchemy, which paths do without

    return Registry.open(settings)
