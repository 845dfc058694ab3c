"""Classifiers: how often the likeliest label is the right one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from graftwork.adapters.encoder.requests import Request
from graftwork.errors import InvalidRequest
from graftwork.merge.evaluation.metric import Measured, share
from graftwork.merge.evaluation.subject import Subject
from graftwork.registry.formats.dataset import DatasetConfig, Example

AT_ONCE = 64
"""Texts of one request to the engine."""


def accuracy(
    subject: Subject, examples: Sequence[Example], config: DatasetConfig, step: Callable[[int], None]
) -> Measured:
    """The share of texts whose label is the one with the highest score. Raises InvalidRequest for an unknown label."""
    engine = subject.encoder
    resident = None if subject.lease is None else subject.lease.resident
    names = engine.labels(resident, subject.adapter).names
    wanted = [_place(example["label"], names, line) for line, example in enumerate(examples, start=1)]
    hits: list[bool] = []
    for start in range(0, len(examples), AT_ONCE):
        batch = examples[start : start + AT_ONCE]
        texts = [
            (example["text"], example["text_pair"]) if "text_pair" in example else example["text"] for example in batch
        ]
        lease = None if subject.lease is None else subject.lease.share()
        logits = engine.submit(Request(engine.reader.read(texts), "logits", lease)).result()
        hits += [int(row.argmax()) == label for row, label in zip(logits, wanted[start:], strict=False)]
        step(len(hits))
    value, error = share(hits)
    return Measured({"accuracy": value}, {"examples": len(hits), "labels": list(names), "standard_error": error})


def _place(label: str | int, names: Sequence[str], line: int) -> int:
    if isinstance(label, str) and label in names:
        return names.index(label)
    if isinstance(label, int) and 0 <= label < len(names):
        return label
    reason = f"the label {label!r} of line {line} is none of the model's: {', '.join(names)}"
    raise InvalidRequest(field="dataset", reason=reason)
