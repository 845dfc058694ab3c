"""What models are judged by, as it is asked for; light to import, since most jobs judge nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from graftwork.errors import InvalidRequest
from graftwork.merge.evaluation.evaluator import evaluator_named
from graftwork.merge.evaluation.metric import check_metrics
from graftwork.registry.formats.dataset import DatasetLayout, read_dataset
from graftwork.registry.registry import Registry
from graftwork.registry.transfer.snapshots import materialise
from graftwork.registry.versions.version import Kind, Version
from graftwork.settings import Settings


class Yardstick(BaseModel):
    """What a model is judged by: a dataset of the registry, or an evaluator of the operator's."""

    model_config = ConfigDict(extra="forbid")
    field: ClassVar[str] = "metrics"
    """What a request calls the metrics that are wanted."""

    dataset: str | None = Field(default=None, description="a reference to a dataset", examples=["acme/questions@v2"])
    evaluator: str | None = Field(default=None, description="the name of a command that the operator has configured")
    limit: Annotated[int, Field(ge=1)] | None = Field(default=None, description="use so many examples, the first ones")

    @model_validator(mode="after")
    def _is_one_thing(self) -> Self:
        if (self.dataset is None) == (self.evaluator is None):
            raise ValueError("name a dataset or an evaluator, one of them")
        if self.evaluator is not None and self.limit is not None:
            raise ValueError("limit belongs to datasets")
        return self

    @property
    def label(self) -> str:
        """What messages call it."""
        return self.dataset or f"the evaluator {self.evaluator}"


def find_dataset(registry: Registry, reference: str) -> Version:
    """The version that `reference` means now. Raises InvalidRequest for what is no dataset, and what resolving does."""
    version = registry.catalog.resolve(reference)
    registry.marks.require_usable(version)
    if version.kind is not Kind.DATASET:
        reason = f"{version.ref} is {version.kind.called}, not a dataset"
        raise InvalidRequest(field="dataset", reason=reason)
    return version


def layout_of(registry: Registry, dataset: Version) -> DatasetLayout:
    """The content of a dataset."""
    return read_dataset(materialise(registry, dataset))


def check_measured(registry: Registry, settings: Settings, yardstick: Yardstick, metrics: Sequence[str]) -> None:
    """Raise what finding the dataset or the evaluator raises, and InvalidRequest for metrics that the dataset has not.

    What an evaluator gives is found out when it runs.
    """
    if yardstick.evaluator is not None:
        evaluator_named(yardstick.evaluator, settings).command()
    if yardstick.dataset is not None:
        layout = layout_of(registry, find_dataset(registry, yardstick.dataset))
        check_metrics(layout.config.task, metrics, field=yardstick.field)
