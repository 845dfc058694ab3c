"""`/v1/models`: what can be asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

from fastapi import APIRouter

from graftwork.api.dependencies.services import RegistryDep
from graftwork.api.schemas.models import ModelList, ModelOut
from graftwork.errors import ArtifactNotFound, InvalidName, ModelNotFound, RevisionNotFound
from graftwork.registry.catalog.catalog import Artifact
from graftwork.registry.refs import Name
from graftwork.registry.registry import Registry
from graftwork.registry.versions.version import Kind

router = APIRouter(prefix="/v1/models", tags=["inference"])

SERVED = (Kind.BASE, Kind.CHECKPOINT, Kind.ADAPTER, Kind.EXPERT_SET)
PAGE = 500


@router.get("")
def list_models(registry: RegistryDep) -> ModelList:
    """Every base, checkpoint, adapter and expert set in the registry, loaded or not.

    Add `@alias` or `@v3` to pin a version, and `[task]` for a task of an expert set. Mixtures such as
    `acme/a*0.7+acme/b*0.3` are not listed.
    """
    served = _served(registry)
    names = _names(registry, served)
    return ModelList(data=[_model(artifact, names) for artifact in served])


@router.get("/{namespace}/{name}")
def get_model(namespace: str, name: str, registry: RegistryDep) -> ModelOut:
    """One model."""
    model = f"{namespace}/{name}"
    try:
        artifact = registry.catalog.get(Name.parse(model))
    except (ArtifactNotFound, InvalidName):
        raise ModelNotFound(model=model, reason="the registry has no artifact of this name") from None
    if artifact.kind not in SERVED:
        raise ModelNotFound(model=model, reason=f"it is {artifact.kind.called}")
    return _model(artifact, _names(registry, [artifact]))


def _served(registry: Registry) -> list[Artifact]:
    found: list[Artifact] = []
    while page := registry.catalog.list(limit=PAGE, after=str(found[-1].name) if found else None):
        found += page
    return [artifact for artifact in found if artifact.kind in SERVED]


def _names(registry: Registry, artifacts: Sequence[Artifact]) -> dict[str, str]:
    """The names of their bases by digest, without those that are not there for whoever asks."""
    names: dict[str, str] = {}
    for digest in {artifact.latest.base for artifact in artifacts if artifact.latest.base}:
        with suppress(RevisionNotFound):
            names[digest] = str(registry.catalog.by_digest(digest).name)
    return names


def _model(artifact: Artifact, base_names: Mapping[str, str]) -> ModelOut:
    base = artifact.latest.base if artifact.kind in (Kind.ADAPTER, Kind.EXPERT_SET) else None
    return ModelOut.of(artifact, base_names.get(base) if base else None)
