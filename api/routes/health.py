"""`/healthz`: whether the server answers."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel

from graftwork import __version__

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """A server that answers."""

    status: str
    version: str


@router.get("/healthz")
async def healthz() -> Health:
    """Answer, without looking at anything else."""
    return Health(status="ok", version=__version__)
