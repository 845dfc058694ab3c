"""`/metrics`: for Prometheus."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from graftwork.api.dependencies.services import HostDep, RegistryDep
from graftwork.api.middleware.metrics import Metrics

router = APIRouter(tags=["health"])


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def get_metrics(request: Request, registry: RegistryDep, host: HostDep) -> Response:
    """Counts and gauges in Prometheus' text format; with authentication, for whoever may read everywhere."""
    metrics: Metrics = request.app.state.metrics
    return Response(metrics.render(registry, host), headers={"Content-Type": CONTENT_TYPE_LATEST})
