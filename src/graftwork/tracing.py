"""Traces, for whoever has OpenTelemetry installed (the extra `otel`) and says where they go; otherwise nothing happens.

All names of spans and attributes are here. Those that begin with `gen_ai.` are OpenTelemetry's conventions for
generative AI, which still change between its releases.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from graftwork import __version__
from graftwork.errors import InvalidSetting
from graftwork.settings import Settings

SERVICE = "graftwork"

ADMISSION = "graftwork.admission"
GENERATION = "chat"
PASS = "graftwork.merge.pass"  # noqa: S105
JOB = "graftwork.job"

OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
REQUEST_MAX_TOKENS = "gen_ai.request.max_tokens"
RESPONSE_MODEL = "gen_ai.response.model"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
FINISH_REASONS = "gen_ai.response.finish_reasons"
ERROR = "error.type"
STAGE = "graftwork.stage"
KIND = "graftwork.job.kind"
ID = "graftwork.job.id"
HTTP_METHOD = "http.request.method"
HTTP_ROUTE = "http.route"
HTTP_STATUS = "http.response.status_code"
REQUEST_ID = "graftwork.request.id"


class Span(Protocol):
    """A piece of work that is being traced."""

    def set_attribute(self, key: str, value: Any) -> object:
        """Say something about it."""

    def end(self) -> object:
        """It is done."""


class Untraced:
    """A span that nobody records."""

    def set_attribute(self, key: str, value: Any) -> None:
        """Do nothing."""

    def end(self) -> None:
        """Do nothing."""


_tracer: Any = None
UNTRACED = Untraced()


def configure(settings: Settings) -> None:
    """Send this process's traces to `trace_url`, if it is set. Raises InvalidSetting without the extra `otel`."""
    if not settings.trace_url:
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        expected = "nothing, or the extra: pip install 'graftwork[otel]'"
        raise InvalidSetting(name="trace_url", value=settings.trace_url, expected=expected) from None
    resource = Resource.create({"service.name": SERVICE, "service.version": __version__})
    provider = TracerProvider(resource=resource)  # it sends what is left when the process ends
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=settings.trace_url)))
    use(provider)


def use(provider: Any) -> None:
    """Trace with an OpenTelemetry tracer provider; with None, no longer."""
    global _tracer
    _tracer = None if provider is None else provider.get_tracer(SERVICE, __version__)


@contextmanager
def span(name: str, attributes: Mapping[str, Any] | None = None) -> Iterator[Span]:
    """Trace what is in the block, as a part of what is being traced already."""
    if _tracer is None:
        yield UNTRACED
        return
    with _tracer.start_as_current_span(name, attributes=attributes) as current:
        yield current


def begin(name: str, attributes: Mapping[str, Any] | None = None) -> Span:
    """Trace something that ends elsewhere, perhaps on another thread: by the span's `end`."""
    if _tracer is None:
        return UNTRACED
    begun: Span = _tracer.start_span(name, attributes=attributes)
    return begun


@contextmanager
def request_span(name: str, headers: Mapping[str, str], attributes: Mapping[str, Any]) -> Iterator[Span]:
    """Trace a request as a part of what its client traces, if its headers say so."""
    if _tracer is None:
        yield UNTRACED
        return
    from opentelemetry.propagate import extract
    from opentelemetry.trace import SpanKind

    options = {"context": extract(headers), "kind": SpanKind.SERVER, "attributes": attributes}
    with _tracer.start_as_current_span(name, **options) as current:
        yield current
