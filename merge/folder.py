"""From a plan to its folder: weights, configuration, tokenizer, card and recipe."""

from __future__ import annotations

from pathlib import Path

from graftwork.merge.adapter_plan import AdapterPlan
from graftwork.merge.card import CARD_FILE, RECIPE_FILE, model_card
from graftwork.merge.companions import write_companions
from graftwork.merge.execute import Report, write_tensors
from graftwork.merge.fuse import write_adapter
from graftwork.merge.plan import Plan
from graftwork.merge.writer import OutputFolder
from graftwork.progress import Progress, silent


def write_folder(planned: Plan | AdapterPlan, out: Path, progress: Progress = silent) -> Report:
    """Write the folder of a plan: it appears whole, or not at all.

    Raises OutputExists, OutputBusy, StorageFull, InputChanged, NonFiniteTensor, IncompatibleModels, and whatever
    `progress` raises.
    """
    try:
        with OutputFolder(out) as folder:
            if isinstance(planned, Plan):
                report = write_tensors(planned, folder, progress)
                write_companions(planned, folder)
            else:
                write_adapter(planned, folder, progress)
                report = Report()
            folder.write_file(CARD_FILE, model_card(planned).encode())
            folder.write_file(RECIPE_FILE, planned.recipe.as_yaml().encode())
        return report
    finally:
        planned.close()
