"""Evaluations: how well versions did, on which dataset, and which job found it out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select

from graftwork.registry.access.access import shown_version
from graftwork.registry.db import Database, clock, moment
from graftwork.registry.tables import EvaluationRow, VersionRow
from graftwork.registry.versions.resolution import find_id_of_first
from graftwork.registry.versions.version import Version


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One number about a version. `dataset` is a pinned reference, or the name of the operator's evaluator."""

    ref: str
    digest: str
    dataset: str
    dataset_digest: str | None
    metric: str
    value: float
    details: Mapping[str, Any]
    job: str | None
    created_at: datetime

    @classmethod
    def from_row(cls, row: EvaluationRow, version: VersionRow) -> Evaluation:
        """The evaluation that rows of the database describe."""
        return cls(
            ref=Version.from_row(version).ref,
            digest=version.digest,
            dataset=row.dataset,
            dataset_digest=row.dataset_digest,
            metric=row.metric,
            value=float(row.value),
            details=row.details,
            job=row.job_id,
            created_at=moment(row.created_at),
        )


class Evaluations:
    """The evaluations of all versions. Rows are only ever added."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(
        self,
        version: Version,
        metrics: Mapping[str, float],
        *,
        dataset: str,
        dataset_digest: str | None = None,
        parameters: Mapping[str, Any],
        details: Mapping[str, Any],
        job: str | None = None,
    ) -> list[Evaluation]:
        """Store what came out, one number a metric; what is there already stays as it is.

        parameters: all that the numbers depend on beside the version and the dataset, as plain values
        """
        found = []
        with self._database.write() as session:
            self._database.exclude(session)
            owner = session.get_one(VersionRow, find_id_of_first(session, version.digest))
            for metric, value in metrics.items():
                key = _key(version.digest, dataset_digest, metric, parameters)
                row = session.scalar(select(EvaluationRow).where(EvaluationRow.key == key).limit(1))
                if row is None:
                    row = EvaluationRow(
                        version_id=owner.id,
                        dataset=dataset,
                        dataset_digest=dataset_digest,
                        metric=metric,
                        value=value,
                        job_id=job,
                        key=key,
                        details=dict(details),
                        created_at=clock(),
                    )
                    session.add(row)
                    session.flush()
                    session.refresh(row)
                found.append(Evaluation.from_row(row, owner))
        return found

    def find(
        self, digest: str, dataset_digest: str | None, metrics: Sequence[str], parameters: Mapping[str, Any]
    ) -> dict[str, Evaluation]:
        """What is known of the content `digest` under these very parameters, by metric."""
        keys = {_key(digest, dataset_digest, metric, parameters): metric for metric in metrics}
        query = select(EvaluationRow, VersionRow).join(VersionRow, VersionRow.id == EvaluationRow.version_id)
        with self._database.read() as session:
            rows = session.execute(query.where(EvaluationRow.key.in_(keys)).order_by(EvaluationRow.id.desc())).all()
            return {row.metric: Evaluation.from_row(row, version) for row, version in rows}

    def of(self, digests: Iterable[str]) -> list[Evaluation]:
        """Everything that is known of versions with this content, newest first."""
        query = (
            select(EvaluationRow, VersionRow)
            .join(VersionRow, VersionRow.id == EvaluationRow.version_id)
            .where(VersionRow.digest.in_(set(digests)), shown_version())
            .order_by(EvaluationRow.created_at.desc(), EvaluationRow.id.desc())
        )
        with self._database.read() as session:
            return [Evaluation.from_row(row, version) for row, version in session.execute(query)]


def _key(digest: str, dataset: str | None, metric: str, parameters: Mapping[str, Any]) -> str:
    parts = {"version": digest, "dataset": dataset, "metric": metric, "parameters": dict(parameters)}
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
