"""`/api/v1/tokens`: who may do what. For administrators."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path

from graftwork.api.dependencies.auth import PrincipalDep
from graftwork.api.dependencies.services import RegistryDep
from graftwork.api.schemas.tokens import NewTokenOut, TokenOut, TokenRequest
from graftwork.registry.access.grants import Grants

DAY_SECONDS = 86400.0

router = APIRouter(prefix="/tokens", tags=["tokens"])


@router.post("", status_code=201)
def create_token(body: TokenRequest, registry: RegistryDep, principal: PrincipalDep) -> NewTokenOut:
    """Make a token. Its secret is in this answer and nowhere else."""
    seconds = None if body.days is None else body.days * DAY_SECONDS
    secret, token = registry.tokens.create(
        body.owner, Grants.parse(body.grants), name=body.name, seconds=seconds, actor=principal.owner
    )
    return NewTokenOut(**TokenOut.of(token).model_dump(), secret=secret)


@router.get("")
def list_tokens(registry: RegistryDep, owner: str | None = None) -> list[TokenOut]:
    """The tokens, newest first; ended ones too."""
    return [TokenOut.of(token) for token in registry.tokens.list(owner)]


@router.delete("/{token_id}")
def revoke_token(
    token_id: Annotated[int, Path(ge=1, lt=2**63)], registry: RegistryDep, principal: PrincipalDep
) -> TokenOut:
    """End a token at once."""
    return TokenOut.of(registry.tokens.revoke(token_id, actor=principal.owner))
