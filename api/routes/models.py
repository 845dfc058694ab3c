"""`/v1/models`: what can be asked for."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import APIRouter

from graftwork.api.deps import RegistryDep
from graftwork.api.schemas.models import ModelList, ModelOut
from graftwork.errors import ArtifactNotFound, InvalidName, ModelNotFound
from graftwork.registry.catalog import Artifact
from graftwork.registry.refs import Name
from graftwork.registry.registry import Registry
from graftwork.registry.versions import Kind

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
    bases = {artifact.latest.base for artifact in served if artifact.latest.base}
    names = {digest: str(registry.catalog.by_digest(digest).name) for digest in bases}
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
        raise ModelNotFound(model=model, reason=f"it is a {artifact.kind.replace('_', ' ')}")
    base = artifact.latest.base
    return _model(artifact, {base: str(registry.catalog.by_digest(base).name)} if base else {})


def _served(registry: Registry) -> list[Artifact]:
    found: list[Artifact] = []
    while page := registry.catalog.list(limit=PAGE, after=str(found[-1].name) if found else None):
        found += page
    return [artifact for artifact in found if artifact.kind in SERVED]


def _model(artifact: Artifact, base_names: Mapping[str, str]) -> ModelOut:
    base = artifact.latest.base if artifact.kind in (Kind.ADAPTER, Kind.EXPERT_SET) else None
    return ModelOut.of(artifact, base_names[base] if base else None)
