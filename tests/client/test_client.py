"""The Python client against a real server, blocking and asynchronous."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest

from graftwork.api.application.app import create_app
from graftwork.api.application.server import running
from graftwork.api.schemas.schedules import ScheduleChange
from graftwork.client import (
    AsyncClient,
    Client,
    adapters,
    aliases,
    artifacts,
    downloads,
    evaluations,
    jobs,
    schedules,
    uploads,
)
from graftwork.client.call import Call, Steps
from graftwork.client.events import Event, EventReader
from graftwork.errors import (
    AliasConflict,
    ArtifactNotFound,
    Cancelled,
    DigestMismatch,
    InvalidRecipe,
    ScheduleNotFound,
    ServerUnreachable,
    SourceNotFound,
    UnknownMethod,
    UploadNotFound,
)
from graftwork.registry.jobs.schedules import Overlap
from graftwork.registry.refs import Name, Ref
from graftwork.registry.registry import Registry
from graftwork.registry.transfer.importer import import_source
from graftwork.settings import Settings
from graftwork.testing.family import Family
from graftwork.testing.tiny import tiny_family

RECIPE: dict[str, Any] = {
    "merge_method": "linear",
    "models": [{"model": f"tiny/ft{number}", "parameters": {"weight": 0.5}} for number in (0, 1)],
}


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return tiny_family(tmp_path_factory.mktemp("family"), fine_tunes=2, adapters=2)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, family: Family) -> Iterator[str]:
    settings = Settings(home=tmp_path_factory.mktemp("home"), threads=1, upload_part_bytes=65_536)
    with Registry.open(settings) as registry:
        import_source(registry, str(family.base), Name.parse("tiny/base"))
        for name, folder in family.fine_tunes.items():
            import_source(registry, str(folder), Name("tiny", name), base=Ref.parse("tiny/base"))
    with running(create_app(settings)) as served:
        yield served


@pytest.fixture
def graft(url: str) -> Iterator[Client]:
    with Client(url) as client:
        yield client


def test_an_adapter_is_uploaded_found_and_pointed_at(graft: Client, family: Family) -> None:
    first = graft(adapters.upload("up/a", family.adapters["adapter0"], base="tiny/base"))
    second = graft(adapters.upload("up/a", family.adapters["adapter1"], base="tiny/base", alias="prod"))
    assert graft(adapters.upload("up/a", family.adapters["adapter0"], base="tiny/base")).digest == first.digest
    assert [version.number for version in graft(artifacts.versions("up/a"))] == [2, 1]
    assert graft(artifacts.resolve("up/a@prod")).digest == second.digest
    assert graft(artifacts.resolve("up/a")).digest == second.digest
    moved = graft(aliases.move("up/a", "prod", "v1", expected=second.digest, reason="back"))
    assert moved.digest == first.digest
    with pytest.raises(AliasConflict, match="someone moved it first"):
        graft(aliases.move("up/a", "prod", "v2", expected=second.digest))
    assert [move.after for move in graft(aliases.history("up/a", "prod"))] == [second.digest, first.digest]
    graft(aliases.remove("up/a", "prod"))
    assert graft(aliases.listing("up/a")) == []
    graph = graft(artifacts.lineage("up/a@v1", direction="up"))
    assert {node.ref for node in graph.nodes} == {"up/a@v1", "tiny/base@v1"}


def test_a_merge_is_waited_for_and_its_failure_raised(graft: Client) -> None:
    told: list[Event] = []
    done = graft.wait(graft(jobs.merge(RECIPE, name="merged/one")).id, told.append)
    assert done.result is not None
    assert graft(artifacts.get("merged/one")).digest == done.result["digest"]
    assert [event.data["state"] for event in told if event.kind == "state"] == ["queued", "running", "succeeded"]
    with pytest.raises(UnknownMethod, match="no merge method 'blend'"):
        graft(jobs.merge({**RECIPE, "merge_method": "blend"}, name="merged/two"))
    with pytest.raises(InvalidRecipe):
        graft(jobs.merge("[]", name="merged/two"))


def test_a_cancelled_job_is_raised_as_such(graft: Client) -> None:
    waiting = graft(jobs.submit("import", {"source": "hf:nobody/nothing", "name": "x/y"}))
    graft(jobs.cancel(waiting.id))
    with pytest.raises(Cancelled, match=waiting.id):
        graft.wait(waiting.id)


def test_lists_go_on_page_by_page(graft: Client) -> None:
    everything = [artifact.name for artifact in graft(artifacts.listing(limit=1000))]
    assert [artifact.name for artifact in graft.pages(artifacts.listing(limit=1))] == everything
    assert len(everything) > 2


def test_failures_are_those_of_the_server(graft: Client, tmp_path: Path) -> None:
    with pytest.raises(ArtifactNotFound, match="There is no artifact no/thing") as caught:
        graft(artifacts.get("no/thing"))
    assert caught.value.fields["name"] == "no/thing"
    with pytest.raises(SourceNotFound, match="a folder with an adapter's files"):
        graft(adapters.upload("up/b", str(tmp_path / "absent")))


def test_a_server_that_is_not_there_is_said_to_be_unreachable() -> None:
    with Client("http://127.0.0.1:1") as graft, pytest.raises(ServerUnreachable, match=r"http://127\.0\.0\.1:1"):
        graft(jobs.merge(RECIPE))


def test_the_asynchronous_client_sends_the_same_calls(url: str) -> None:
    async def story() -> None:
        async with AsyncClient(url) as graft:
            submitted = await graft(jobs.merge(RECIPE, name="merged/async"))
            told: list[Event] = []
            assert (await graft.wait(submitted.id, told.append)).state == "succeeded"
            assert "succeeded" in [event.data.get("state") for event in told]
            names = [artifact.name async for artifact in graft.pages(artifacts.listing(limit=1))]
            assert names == [artifact.name for artifact in await graft(artifacts.listing(limit=1000))]
            with pytest.raises(ArtifactNotFound):
                await graft(artifacts.get("no/thing"))

    asyncio.run(story())


class Flaky(BaseHTTPRequestHandler):
    """Answers 503 twice, then an empty list; refuses what is not to be repeated."""

    asked: ClassVar[list[str]]

    def do_GET(self) -> None:
        self.asked.append(self.command)
        if len(self.asked) < 3:
            self.send_response(503)
            self.send_header("Retry-After", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"[]")

    do_POST = do_GET  # noqa: N815  the name that http.server looks for

    def log_message(self, *arguments: Any) -> None:
        pass


def test_only_what_may_be_sent_twice_is_repeated() -> None:
    class Handler(Flaky):
        asked: ClassVar[list[str]] = []

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with Client(f"http://127.0.0.1:{server.server_port}") as graft:
            assert graft(jobs.listing()) == []
            assert Handler.asked == ["GET"] * 3
            Handler.asked.clear()
            with pytest.raises(Exception, match="answered 503"):
                graft(jobs.submit("extract", {}))
            assert Handler.asked == ["POST"]
        server.shutdown()
        thread.join()


def test_events_are_put_together_from_lines() -> None:
    reader = EventReader(3)
    lines = [": still here", "", "id: 4", "event: log", 'data: {"text": "a: b"}', "", "id: 5"]
    events = [event for line in lines for event in reader.feed(line)]
    assert events == [Event(4, "log", {"text": "a: b"})]
    assert reader.position == 4


def driven(steps: Steps[Any], answered: Callable[[Call[Any]], Any]) -> Any:
    """What the steps return when each call is answered by `answered`."""
    answer = None
    while True:
        try:
            call = steps.send(answer)
        except StopIteration as ended:
            return ended.value
        answer = answered(call)


def test_an_upload_in_parts_goes_on_where_it_was_interrupted(graft: Client, family: Family) -> None:
    sent: list[str] = []

    def interrupted(call: Call[Any]) -> Any:
        if len(sent) == 2:
            raise KeyboardInterrupt
        return answered(call)

    def answered(call: Call[Any]) -> Any:
        if call.method == "PUT":
            sent.append(call.path.partition("/files/")[2])
        return graft(call)

    with pytest.raises(KeyboardInterrupt):
        driven(uploads.send("parts/ft0", family.fine_tunes["ft0"], base="tiny/base"), interrupted)
    begun = next(upload for upload in graft(uploads.listing()) if upload.name == "parts/ft0")
    told: list[tuple[int, int]] = []
    again = uploads.send(
        "parts/ft0",
        family.fine_tunes["ft0"],
        base="tiny/base",
        progress=lambda stage, done, total: told.append((done, total)),
    )
    first, sent[:] = list(sent), []
    version = driven(again, answered)
    assert version.digest == graft(artifacts.get("tiny/ft0")).digest
    assert sent
    assert not set(first) & set(sent)
    assert graft(uploads.get(begun.id)).version == version.digest
    assert told[-1][0] == told[-1][1] == begun.size
    assert graft(uploads.send("parts/ft0", family.fine_tunes["ft0"], base="tiny/base")).number == 1
    graft(uploads.abandon(begun.id))
    with pytest.raises(UploadNotFound):
        graft(uploads.get(begun.id))


def test_both_clients_run_the_same_steps(url: str, family: Family, tmp_path: Path) -> None:
    async def story() -> None:
        async with AsyncClient(url) as graft:
            sent = await graft(uploads.send("steps/a", str(family.adapters["adapter0"]), base="tiny/base"))
            fetched = await graft(downloads.fetch("steps/a", str(tmp_path / "async")))
            assert fetched.digest == sent.digest
            with pytest.raises(SourceNotFound):
                await graft(uploads.send("steps/a", tmp_path / "absent"))
            with pytest.raises(ArtifactNotFound):
                await graft(downloads.fetch("steps/nobody", tmp_path / "nobody"))

    asyncio.run(story())
    with Client(url) as graft:
        graft(downloads.fetch("steps/a", tmp_path / "sync"))
    for name in ("async", "sync"):
        assert (tmp_path / name / "adapter_model.safetensors").read_bytes() == (
            family.adapters["adapter0"] / "adapter_model.safetensors"
        ).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["async", "sync"]


def test_what_comes_back_damaged_is_refused(graft: Client, tmp_path: Path) -> None:
    def damaged(response: httpx.Response) -> bytes:
        return bytes(len(response.content))

    with pytest.raises(DigestMismatch, match=r"tiny/ft0@v1/\S+ has SHA-256"):
        driven(
            downloads.fetch("tiny/ft0", tmp_path / "damaged"),
            lambda call: graft(replace(call, read=damaged) if call.headers else call),
        )
    assert list(tmp_path.iterdir()) == []


def test_a_schedule_and_an_evaluation_by_the_client(graft: Client, tmp_path: Path) -> None:
    payload = {"name": "merged/nightly", "recipe": RECIPE}
    nightly = ScheduleChange(cron="30 2 * * *", kind="merge", payload=payload, overlap=Overlap.QUEUE)
    made = graft(schedules.create("acme/nightly", nightly))
    assert (made.overlap, made.enabled) == ("queue", True)
    assert [schedule.name for schedule in graft.pages(schedules.listing(limit=1))] == ["acme/nightly"]
    assert graft(schedules.change("acme/nightly", nightly.model_copy(update={"cron": "0 4 * * *"}))).cron == "0 4 * * *"
    assert graft(schedules.pause("acme/nightly")).enabled is False
    assert graft(schedules.resume("acme/nightly")).enabled is True
    job = graft(schedules.run("acme/nightly"))
    assert graft(jobs.made(graft.wait(job.id))).name == "merged/nightly"
    assert [each.id for each in graft(schedules.jobs("acme/nightly"))] == [job.id]
    graft(schedules.remove("acme/nightly"))
    with pytest.raises(ScheduleNotFound):
        graft(schedules.get("acme/nightly"))
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"text": "one two three"}\n')
    dataset = graft(uploads.send("eval/texts", texts))
    assert dataset.kind == "dataset"
    done = graft.wait(graft(evaluations.submit("tiny/base", dataset="eval/texts")).id)
    found = graft(evaluations.listing("tiny/base"))
    assert done.result is not None
    assert done.result["metrics"] == {each.metric: each.value for each in found if each.dataset == "eval/texts@v1"}


def test_large_parts_go_to_a_server_that_has_no_object_storage(
    graft: Client, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "LEAST_AWAY", 1)
    sent = graft(uploads.send("up/large", family.adapters["adapter0"], base="tiny/base"))
    assert {file.path for file in sent.files} >= {"adapter_config.json", "adapter_model.safetensors"}
