"""`/api/v1/quotas`: how much a namespace may hold."""

from __future__ import annotations

from fastapi import APIRouter

from graftwork.api.dependencies.auth import PrincipalDep
from graftwork.api.dependencies.services import RegistryDep
from graftwork.api.schemas.quotas import QuotaIn, QuotaOut
from graftwork.registry.access.grants import EVERYWHERE, Scope

router = APIRouter(prefix="/quotas", tags=["quotas"])


@router.get("")
def list_quotas(registry: RegistryDep, principal: PrincipalDep) -> list[QuotaOut]:
    """Every namespace that has a quota, for administrators."""
    principal.require(Scope.ADMIN, EVERYWHERE)
    return [QuotaOut.of(quota) for quota in registry.quotas.list()]


@router.get("/{namespace}")
def get_quota(namespace: str, registry: RegistryDep, principal: PrincipalDep) -> QuotaOut:
    """What a namespace may hold and what it holds, for whoever may read in it."""
    principal.require(Scope.READ, namespace)
    return QuotaOut.of(registry.quotas.get(namespace))


@router.put("/{namespace}")
def put_quota(namespace: str, body: QuotaIn, registry: RegistryDep, principal: PrincipalDep) -> QuotaOut:
    """Say what a namespace may hold, for administrators. What it holds already stays."""
    principal.require(Scope.ADMIN, EVERYWHERE)
    quota = registry.quotas.set(
        namespace, max_bytes=body.max_bytes, max_versions=body.max_versions, actor=principal.owner
    )
    return QuotaOut.of(quota)
