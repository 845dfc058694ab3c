"""Extraction: what a fine-tune adds to its base, as a task vector or a LoRA."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from sqlalchemy.orm import Session

from graftwork.errors import InputChanged
from graftwork.merge.extract.extract import extract_version
from graftwork.merge.jobs.kind import Kind, Order
from graftwork.merge.jobs.submit import outcome_of
from graftwork.merge.jobs.work import Work
from graftwork.registry.refs import Name
from graftwork.registry.versions.version import Version


class ExtractOrder(Order):
    """A fine-tune and its base, as references to the registry; see `graftwork.merge.extract.extract`."""

    model: str
    base: str
    name: str
    rank: int | None = Field(default=None, ge=1)
    dtype: Literal["float32", "float16", "bfloat16", "model"] = "float32"
    strict: bool = False
    seed: int = 0
    aliases: list[str] = Field(default=[])


def run(work: Work, order: ExtractOrder) -> None:
    """Extract and register, and end the job in the same transaction."""

    def finish(session: Session, version: Version) -> None:
        work.finish(session, outcome_of(version))

    extract_version(
        order.model,
        order.base,
        Name.parse(order.name),
        registry=work.registry,
        settings=work.settings,
        rank=order.rank,
        dtype=order.dtype,
        strict=order.strict,
        seed=order.seed,
        aliases=order.aliases,
        progress=work.progress,
        paths=False,
        also=finish,
    )


KIND = Kind(
    name="extract",
    payload=ExtractOrder,
    run=run,
    shares={"extract": (0.0, 0.9), "import": (0.9, 0.1)},
    retried=(InputChanged,),
)
