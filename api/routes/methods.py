"""`/api/v1/methods`: the merge methods."""

from __future__ import annotations

from fastapi import APIRouter

from graftwork.api.schemas.methods import MethodOut
from graftwork.merge.method import find_method, methods

router = APIRouter(tags=["merges"])


@router.get("/methods")
def list_methods() -> list[MethodOut]:
    """Every merge method with its parameters."""
    return [MethodOut.of(method) for method in methods().values()]


@router.get("/methods/{method}")
def get_method(method: str) -> MethodOut:
    """One merge method with its parameters."""
    return MethodOut.of(find_method(method))
