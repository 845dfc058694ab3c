"""What a running server tells of itself: its health, its metrics, its log and its traces."""

from __future__ import annotations

import json
import logging
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from graftwork import tracing
from graftwork.api.application.app import create_app
from graftwork.api.application.server import running
from graftwork.context import job_id
from graftwork.logs import JsonLines, configure
from graftwork.registry.access.grants import Grants
from graftwork.registry.refs import Name
from graftwork.registry.registry import Registry
from graftwork.registry.transfer.importer import import_source
from graftwork.settings import Settings
from graftwork.testing.family import Family
from graftwork.testing.postgres import PostgresServer
from graftwork.testing.waiting import until


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(home=tmp_path_factory.mktemp("observed"), threads=1)


@pytest.fixture(scope="module")
def registry(settings: Settings, family: Family) -> Iterator[Registry]:
    with Registry.open(settings) as opened:
        import_source(opened, str(family.base), Name.parse("tiny/base"))
        yield opened


@pytest.fixture(scope="module")
def client(settings: Settings, registry: Registry) -> Iterator[httpx.Client]:
    with running(create_app(settings)) as url, httpx.Client(base_url=url, timeout=60) as opened:
        yield opened


class Kept(logging.Handler):
    """Keeps lines as the JSON formatter writes them, in the thread and the context that logged them."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.setFormatter(JsonLines())

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture
def log() -> Iterator[Kept]:
    logger, kept = logging.getLogger("graftwork"), Kept()
    level = logger.level
    logger.addHandler(kept)
    logger.setLevel(logging.INFO)
    yield kept
    logger.removeHandler(kept)
    logger.setLevel(level)


def metrics(client: httpx.Client) -> dict[str, dict[frozenset[tuple[str, str]], float]]:
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    found: dict[str, dict[frozenset[tuple[str, str]], float]] = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
    return found


def test_metrics_count_requests_by_the_routes_templates(client: httpx.Client, registry: Registry) -> None:
    client.get("/api/v1/artifacts/tiny/base")
    client.get("/api/v1/artifacts/tiny/nothing")
    client.get("/nowhere/at/all")
    client.post("/v1/completions", json={"model": "tiny/base", "prompt": "ab", "max_tokens": 2, "ignore_eos": True})
    registry.jobs.enqueue("unknown", {})
    found = metrics(client)
    requests = found["graftwork_http_requests_total"]
    template = "/api/v1/artifacts/{namespace}/{name}"
    for method, route, status in (("GET", template, "200"), ("GET", template, "404"), ("any", "unmatched", "404")):
        assert requests[frozenset({("method", method), ("route", route), ("status", status)})] == 1
    assert sum(found["graftwork_http_request_seconds_count"].values()) == sum(requests.values())
    assert found["graftwork_http_requests_in_flight"][frozenset()] == 1
    assert found["graftwork_jobs"][frozenset({("kind", "unknown"), ("state", "queued")})] == 1
    base = registry.catalog.resolve("tiny/base")
    engine = frozenset({("engine", base.digest[:12])})
    assert found["graftwork_engine_generated_tokens_total"][engine] == 2
    assert found["graftwork_engine_running"][engine] == 0
    assert found["graftwork_resident_adapters"][engine] == 0
    assert found["graftwork_adapter_rows_free"][engine] > 0
    assert found["graftwork_blob_bytes"][frozenset()] == sum({file.sha256: file.size for file in base.files}.values())
    assert "tiny" not in client.get("/metrics").text


def test_metrics_are_for_operators_where_tokens_are_needed(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, auth="required")
    with Registry.open(settings) as registry, running(create_app(settings)) as url:
        grants = [Grants.parse(given) for given in ({"acme": ["admin"]}, {"*": ["read"]})]
        asked = [{"Authorization": f"Bearer {registry.tokens.create('a', given)[0]}"} for given in grants]
        statuses = [httpx.get(f"{url}/metrics", headers=headers, timeout=60).status_code for headers in ({}, *asked)]
    assert statuses == [401, 403, 200]


@pytest.mark.parametrize("given", ["mine-1", None, "no good", "a" * 100])
def test_every_answer_names_its_request(client: httpx.Client, given: str | None) -> None:
    headers = {} if given is None else {"X-Request-Id": given}
    for path in ("/healthz", "/api/v1/artifacts/no/where", "/v1/models", "/nowhere"):
        told = client.get(path, headers=headers).headers["x-request-id"]
        assert told == given if given == "mine-1" else re.fullmatch(r"[0-9a-f]{32}", told)


def test_the_audit_log_names_the_request(client: httpx.Client, registry: Registry) -> None:
    digest = registry.catalog.resolve("tiny/base").digest
    path = "/api/v1/artifacts/tiny/base/aliases/prod"
    client.put(path, json={"digest": digest}, headers={"X-Request-Id": "the-move"})
    assert "the-move" in {entry.request for entry in registry.audit.entries()}


def test_the_log_is_an_object_a_line(client: httpx.Client, log: Kept) -> None:
    client.get("/api/v1/artifacts/tiny/base", headers={"X-Request-Id": "r-1"})
    client.get("/healthz", headers={"X-Request-Id": "r-2"})
    job_id.set("j-1")
    logging.getLogger("graftwork.test").warning("with %s", "a job", exc_info=ValueError("no"))
    job_id.set(None)
    lines = [json.loads(line) for line in log.lines]
    asked = next(line for line in lines if line.get("request_id") == "r-1")
    assert asked["route"] == "/api/v1/artifacts/{namespace}/{name}"
    assert (asked["status"], asked["principal"], asked["level"]) == (200, "api", "info")
    assert asked["duration_ms"] > 0
    assert not any(line.get("request_id") == "r-2" for line in lines)
    failed = next(line for line in lines if line.get("job_id") == "j-1")
    assert (failed["message"], failed["level"]) == ("with a job", "warning")
    assert "ValueError: no" in failed["exception"]


def test_the_settings_say_how_the_log_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before, level = list(root.handlers), logging.getLogger("graftwork").level
    try:
        for form in ("json", "text"):
            configure(Settings(log_format=form, log_level="warning"))
            logging.getLogger("graftwork.test").info("not this")
            logging.getLogger("graftwork.test").warning("this")
        lines = capsys.readouterr().err.splitlines()
    finally:
        root.handlers[:] = before
        logging.getLogger("graftwork").setLevel(level)
    assert json.loads(lines[0])["message"] == "this"
    assert lines[1].endswith("WARNING this")
    assert len(lines) == 2


def test_readiness_says_what_is_wrong(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home", auth="required")
    with running(create_app(settings)) as url:
        assert httpx.get(f"{url}/readyz", timeout=60).json() == {
            "ready": True,
            "checks": {"database": "ok", "storage": "ok", "engines": "ok"},
        }
        shutil.rmtree(settings.home / "blobs")
        (settings.home / "blobs").write_text("in the way")
        told = httpx.get(f"{url}/readyz", timeout=60)
        assert told.status_code == 503
        assert told.json()["checks"]["storage"] != "ok"
        assert told.json()["checks"]["database"] == "ok"
        assert httpx.get(f"{url}/healthz", timeout=60).status_code == 200


def test_a_database_that_goes_away_is_told_of_once_and_waited_for(
    tmp_path: Path, postgres: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    import psycopg

    socket = Path(postgres.url.partition("host=")[2]) / ".s.PGSQL.5432"
    url = postgres.new_schema() + "&application_name=leaving"
    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'leaving'"
    settings = Settings(home=tmp_path / "home", database_url=url, watch_seconds=1)
    caplog.set_level(logging.WARNING)
    with running(create_app(settings)) as server, psycopg.connect(postgres.url, autocommit=True) as other:
        assert httpx.get(f"{server}/api/v1/artifacts", timeout=60).status_code == 200
        socket.rename(socket.with_suffix(".away"))
        try:
            other.execute(end)
            for _ in range(3):
                told = httpx.get(f"{server}/api/v1/artifacts", timeout=60)
                assert (told.status_code, told.headers["Retry-After"]) == (503, "1")
                assert told.json()["code"] == "database_unavailable"
            time.sleep(1.5)  # every thread of the server has met the outage by now
            readiness = httpx.get(f"{server}/readyz", timeout=60)
        finally:
            socket.with_suffix(".away").rename(socket)
        assert readiness.status_code == 503
        assert readiness.json()["checks"]["database"] == "it does not answer"
        assert httpx.get(f"{server}/api/v1/artifacts", timeout=60).status_code == 200
    warned = [record for record in caplog.records if record.name.startswith("graftwork") and record.levelname != "INFO"]
    assert [(record.name, record.exc_info) for record in warned] == [("graftwork.registry.db", None)]


def test_traces_follow_a_request_into_the_engine(client: httpx.Client) -> None:
    pytest.importorskip("opentelemetry.sdk", reason="the extra 'otel' is not installed")
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing.use(provider)
    trace = "0af7651916cd43dd8448eb211c80319c"
    try:
        body = {"model": "tiny/base", "prompt": "ab", "max_tokens": 3, "ignore_eos": True}
        client.post("/v1/completions", json=body, headers={"traceparent": f"00-{trace}-b7ad6b7169203331-01"})
        until(lambda: len(exporter.get_finished_spans()) == 3)  # the request's own ends after its answer
    finally:
        tracing.use(None)
    spans = {span.name.partition(" ")[0]: span for span in exporter.get_finished_spans()}
    assert set(spans) == {"POST", tracing.ADMISSION, tracing.GENERATION}
    assert {f"{span.context.trace_id:032x}" for span in spans.values()} == {trace}
    request, generation = spans["POST"], spans[tracing.GENERATION]
    assert generation.parent is not None
    assert request.attributes is not None
    assert generation.attributes is not None
    assert generation.parent.span_id == request.context.span_id
    assert dict(request.attributes)[tracing.HTTP_ROUTE] == "/v1/completions"
    told = dict(generation.attributes)
    assert (told[tracing.OUTPUT_TOKENS], told[tracing.FINISH_REASONS]) == (3, ("length",))
    assert told[tracing.REQUEST_MODEL] == "tiny/base"
    assert str(told[tracing.RESPONSE_MODEL]).startswith("tiny/base@")
