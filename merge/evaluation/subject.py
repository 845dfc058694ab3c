"""What is evaluated: an engine, and the adapter in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from graftwork.adapters.encoder.checkpoint import is_encoder_folder
from graftwork.adapters.encoder.engine import EncoderEngine
from graftwork.adapters.engine.engine import Engine
from graftwork.adapters.experts.request import route
from graftwork.adapters.experts.target import target_of
from graftwork.adapters.residency.lease import Lease
from graftwork.errors import InvalidRequest
from graftwork.registry.formats.peft import CONFIG_FILE
from graftwork.registry.registry import Registry
from graftwork.registry.transfer.snapshots import materialise
from graftwork.registry.versions.version import Version
from graftwork.settings import Settings


@dataclass(frozen=True, slots=True)
class Subject:
    """A model that answers."""

    name: str
    serving: Engine | EncoderEngine
    lease: Lease | None
    """The adapter; None for a whole model."""
    routes_requests: bool = False
    """Whether the adapter is an expert set that is routed once for each prompt."""
    adapter: Path | None = None
    """The adapter's folder."""

    @property
    def engine(self) -> Engine:
        """The engine that continues texts. Raises InvalidRequest for an encoder."""
        if not isinstance(self.serving, Engine):
            reason = f"{self.name} is an encoder; it is measured by accuracy on a dataset of the task classification"
            raise InvalidRequest(field="model", reason=reason)
        return self.serving

    @property
    def encoder(self) -> EncoderEngine:
        """The engine that classifies texts. Raises InvalidRequest for a model that continues texts."""
        if not isinstance(self.serving, EncoderEngine):
            reason = f"{self.name} continues texts; a dataset of the task classification needs a classifier"
            raise InvalidRequest(field="model", reason=reason)
        return self.serving

    def lease_for(self, prompt_ids: Sequence[int]) -> Lease | None:
        """A lease of its own for one prompt; None for a whole model."""
        if self.lease is None or not self.routes_requests:
            return None if self.lease is None else self.lease.share()
        return route(self.engine, self.lease.share(), prompt_ids)


@contextmanager
def open_version(registry: Registry, settings: Settings, version: Version) -> Iterator[Subject]:
    """A version of the registry, in an engine of its own; of an expert set with tasks, its first task.

    Raises VersionQuarantined, ModelNotFound for a version of another kind, and what loading raises.
    """
    registry.marks.require_usable(version)
    target = target_of(registry, version)
    with _started(materialise(registry, target.base), settings, target.base.ref) as engine:
        residency = engine.residency
        if target.source is None:
            yield Subject(version.ref, engine, None)
            return
        source = target.source(residency.dtype, residency.device, residency.base)
        with residency.acquire(target.digest, source, name=target.name) as lease:
            folder = materialise(registry, version)
            yield Subject(version.ref, engine, lease, target.routes_requests, folder)


@contextmanager
def open_folder(folder: Path, settings: Settings, base: Path | None) -> Iterator[Subject]:
    """A merged folder: a whole model, or an adapter for the model in the folder `base`. Raises what loading raises."""
    if not (folder / CONFIG_FILE).is_file():
        with _started(folder, settings, folder.name) as engine:
            yield Subject(folder.name, engine, None)
        return
    if base is None:
        raise InvalidRequest(field="model", reason=f"{folder.name} is an adapter, and its base is not known")
    with (
        _started(base, settings, base.name) as engine,
        engine.residency.acquire(folder.name, folder, name=folder.name) as lease,
    ):
        yield Subject(folder.name, engine, lease, adapter=folder)


@contextmanager
def _started(folder: Path, settings: Settings, name: str) -> Iterator[Engine | EncoderEngine]:
    kind = EncoderEngine if is_encoder_folder(folder) else Engine
    engine = kind.load(folder, settings, name=name, device="cuda" if torch.cuda.is_available() else "cpu")
    engine.start()
    try:
        yield engine
    finally:
        engine.close()
