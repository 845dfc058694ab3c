"""From a plan to its folder: weights, configuration, tokenizer, card and recipe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from graftwork.merge.output.writer import OutputFolder
from graftwork.merge.plan.identity import identity
from graftwork.merge.plan.plan import Plan
from graftwork.merge.run.execute import Report, Run, write_tensors
from graftwork.merge.run.folder.card import CARD_FILE, RECIPE_FILE, model_card
from graftwork.merge.run.folder.companions import write_companions
from graftwork.progress import Progress, silent

if TYPE_CHECKING:
    from graftwork.merge.plan.adapter_plan import AdapterPlan


def write_folder(
    planned: Plan | AdapterPlan, out: Path, progress: Progress = silent, keep: Callable[[], bool] = lambda: False
) -> Report:
    """Write the folder of a plan: it appears whole, or not at all.

    A merge of models goes on from what a killed process left of the same merge. `keep` is asked after an error whether
    to leave such a beginning too.

    Raises OutputExists, OutputBusy, StorageFull, InputChanged, NonFiniteTensor, IncompatibleModels, and whatever
    `progress` raises.
    """
    try:
        merge = identity(planned) if isinstance(planned, Plan) else None
        with OutputFolder(out, merge, keep) as folder:
            if isinstance(planned, Plan):
                report = write_tensors(planned, folder, progress, _executor(planned))
                write_companions(planned, folder)
            else:
                from graftwork.merge.run.fuse import write_adapter

                write_adapter(planned, folder, progress)
                report = Report()
            folder.write_file(CARD_FILE, model_card(planned).encode())
            folder.write_file(RECIPE_FILE, planned.recipe.as_yaml().encode())
        return report
    finally:
        planned.close()


def _executor(planned: Plan) -> type[Run]:
    """Who computes: this process, or a Ray cluster, as the setting says."""
    if planned.settings.executor == "ray":
        from graftwork.merge.run.ray.spread import Spread

        return Spread
    return Run
