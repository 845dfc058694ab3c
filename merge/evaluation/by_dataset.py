"""Evaluation on a dataset: of a version, or of the merged folders of a sweep."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graftwork.errors import Cancelled, GraftworkError, OperationFailed
from graftwork.merge.evaluation.causal import exact_match, multiple_choice, perplexity
from graftwork.merge.evaluation.classifier import accuracy
from graftwork.merge.evaluation.metric import SCHEME, Measured, check_metrics
from graftwork.merge.evaluation.subject import Subject, open_folder
from graftwork.progress import Progress, silent
from graftwork.registry.formats.dataset import DatasetConfig, DatasetLayout, Example, read_examples
from graftwork.settings import Settings

Measure = Callable[[Subject, Sequence[Example], DatasetConfig, Callable[[int], None]], Measured]
MEASURES: Mapping[str, Measure] = {
    "generation": exact_match,
    "multiple_choice": multiple_choice,
    "text": perplexity,
    "classification": accuracy,
}


def measure(
    subject: Subject,
    layout: DatasetLayout,
    metrics: Sequence[str] = (),
    *,
    limit: int | None = None,
    progress: Progress = silent,
) -> Measured:
    """The metrics (all of the dataset's task, by default) on its first `limit` examples.

    Raises InvalidRequest for a metric that the task has not, and for a model or an example that it does not fit.
    """
    wanted = check_metrics(layout.config.task, metrics)
    examples = read_examples(layout, limit)

    def step(done: int) -> None:
        progress("evaluate", done, len(examples))

    step(0)
    found = MEASURES[layout.config.task](subject, examples, layout.config, step)
    return Measured({metric: found.metrics[metric] for metric in wanted}, found.details)


@dataclass(frozen=True, slots=True)
class ByDataset:
    """Judges the folders of a sweep by a dataset.

    base: the model that merged adapters belong on
    """

    layout: DatasetLayout
    digest: str
    settings: Settings
    limit: int | None = None
    base: Path | None = None
    progress: Progress = silent

    @property
    def identity(self) -> Mapping[str, Any]:
        """The dataset's digest and the limit."""
        return {"dataset": self.digest, "limit": self.limit, "scheme": SCHEME}

    def measure(self, model: Path, log: Path) -> dict[str, float]:
        """Every metric of the dataset's task. Raises OperationFailed, Cancelled."""
        try:
            with open_folder(model, self.settings, self.base) as subject:
                return dict(measure(subject, self.layout, limit=self.limit, progress=self.progress).metrics)
        except (OperationFailed, Cancelled):
            raise
        except GraftworkError as error:
            raise OperationFailed(what="The evaluation", reason=str(error).rstrip(".")) from error
