"""`/metrics`: for Prometheus."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from graftwork.api.deps import ServicesDep
from graftwork.api.metrics import Metrics

router = APIRouter(tags=["health"])


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def get_metrics(request: Request, services: ServicesDep) -> Response:
    """Counts and gauges in Prometheus' text format; with authentication, for whoever may read everywhere."""
    metrics: Metrics = request.app.state.metrics
    return Response(metrics.render(services), headers={"Content-Type": CONTENT_TYPE_LATEST})
