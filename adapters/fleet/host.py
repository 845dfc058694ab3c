"""What stands in for the embedded engines when a fleet of vLLM servers computes."""

from __future__ import annotations

import json
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import httpx

from graftwork.adapters.fleet import capability
from graftwork.adapters.fleet.fleet import Fleet
from graftwork.adapters.fleet.names import EngineName
from graftwork.adapters.fleet.wire import credentials, probe, said, served_base
from graftwork.adapters.residency.place import Occupant
from graftwork.errors import (
    AdapterProbeFailed,
    EngineUnavailable,
    GraftworkError,
    InvalidReference,
    InvalidRequest,
    InvalidSetting,
    ModelNotFound,
    NotFound,
    OperationFailed,
    UnservableAdapter,
)
from graftwork.registry.access.access import require
from graftwork.registry.access.grants import Scope
from graftwork.registry.formats.peft import CONFIG_FILE
from graftwork.registry.refs import Ref
from graftwork.registry.registry import Registry
from graftwork.registry.versions.version import Kind, Version
from graftwork.settings import Settings

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.25
EMBEDDED = "the embedded engine serves it (graft serve without --engine vllm)"
JUDGED = 4096
"""Adapters whose judgement is remembered."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a request was resolved to, once and for good: aliases may move while it runs."""

    model: str
    """As the client wrote it."""
    version: Version
    base: str
    """The digest of the version's base, or its own."""

    @property
    def engine_name(self) -> str | None:
        """The adapter's name inside a server; None for a base, which every server calls as it was started."""
        is_base = self.version.digest == self.base
        return None if is_base else str(EngineName(self.version.name, self.version.digest))


class FleetHost:
    """Resolves models, keeps the fleet's health, and probes adapters on it; thread-safe."""

    def __init__(self, registry: Registry, settings: Settings) -> None:
        """Checks the servers in a thread of its own from now on. Raises InvalidSetting without a server's URL."""
        urls = [url.strip().rstrip("/") for url in settings.engine_urls.split(",") if url.strip()]
        if not urls or not all(url.startswith(("http://", "https://")) for url in urls):
            expected = "the URLs of vLLM servers, with commas between them"
            raise InvalidSetting(name="engine_urls", value=settings.engine_urls, expected=expected)
        self.fleet = Fleet(list(dict.fromkeys(urls)), limit=settings.engine_requests)
        self._registry = registry
        self._settings = settings
        self._pinned = registry.catalog.resolve(settings.engine_base) if settings.engine_base else None
        self._client = httpx.Client(headers=credentials(settings.engine_key))
        self._refusal = lru_cache(JUDGED)(self._judge)
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(max(4, len(urls)), thread_name_prefix="graftwork-fleet")
        self._checker = threading.Thread(target=self._check_forever, name="graftwork-fleet-health")
        self.check()
        self._checker.start()

    def admit(self, model: str) -> Target:
        """Resolve `ns/name`, `ns/name@alias` or `ns/name@version` of a base or of an adapter that vLLM serves.

        Raises ModelNotFound, UnservableAdapter, VersionQuarantined, Forbidden.
        """
        if "+" in model or "*" in model:
            raise ModelNotFound(model=model, reason=f"it is a mixture, and a fleet of vLLM has none; {EMBEDDED}")
        try:
            version = self._registry.catalog.resolve(model)
        except (NotFound, InvalidReference) as error:
            raise ModelNotFound(model=model, reason=str(error).removesuffix(".")) from None
        require(Scope.INFER, version.name.namespace)
        self._registry.marks.require_none_quarantined({version.digest, version.base or version.digest})
        if version.kind in (Kind.BASE, Kind.CHECKPOINT):
            return Target(model, version, version.digest)
        if version.kind is not Kind.ADAPTER or version.base is None:
            kind = version.kind.replace("_", " ")
            raise ModelNotFound(model=model, reason=f"it is of kind {kind}, and a fleet of vLLM has none; {EMBEDDED}")
        try:
            self._registry.catalog.by_digest(version.base)
        except NotFound as error:  # a base of others, which is as if it were not there
            raise ModelNotFound(model=model, reason=str(error).removesuffix(".")) from None
        self._require_servable(version)
        return Target(model, version, version.base)

    def prepare(self, version: Version, *, replaces: str | None = None) -> None:
        """Probe an adapter with a real completion on every ready server of its base, before an alias moves to it.

        A server that cannot be reached is taken out of the fleet instead. Does nothing for anything else than an
        adapter, and when no server has its base. Raises UnservableAdapter, AdapterProbeFailed, EngineUnavailable when
        none of them is ready; then the alias must stay where it is.
        """
        if version.kind is not Kind.ADAPTER or version.base is None or not self.fleet.may_serve(version.base):
            return
        self._require_servable(version)
        model = str(EngineName(version.name, version.digest))
        servers = self.fleet.serving(version.base)
        answers = list(self._pool.map(lambda url: self._probe(url, model), servers))
        refusals = [answer for answer in answers if answer]
        if refusals:
            raise AdapterProbeFailed(adapter=version.ref, reason=refusals[0])
        if not any(answer == "" for answer in answers):
            raise EngineUnavailable(model=version.ref, reason="no server of its base is ready")

    def follow(self, key: str, alias: str) -> None:
        """Do nothing: what a server has loaded is its own affair."""

    def occupants(self) -> dict[str, list[Occupant]]:
        """None: servers of a fleet hold what they were asked for, and say so themselves."""
        return {}

    @property
    def kept(self) -> dict[str, Version]:
        """None."""
        return {}

    def keep(self, ref: str) -> Version:
        """Raises InvalidRequest: a server evicts what it likes."""
        raise InvalidRequest(field="ref", reason=f"a fleet of vLLM keeps what its servers keep; {EMBEDDED}")

    def let_go(self, ref: str) -> bool:
        """False: nothing is kept."""
        return False

    def check(self) -> None:
        """Check every server that is due, all at the same time."""
        list(self._pool.map(self._check, self.fleet.due()))

    def close(self, *, drain: bool = False) -> None:
        """Stop checking. Requests in flight end with the server that carries them."""
        self._stop.set()
        if self._checker.ident is not None:
            self._checker.join()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def _probe(self, url: str, model: str) -> str | None:
        """What the server refused with, "" when it answered, None when it is gone."""
        try:
            return probe(self._client, url, model) or ""
        except httpx.HTTPError as error:
            self.fleet.failed(url, said(error))
            return None

    def _check_forever(self) -> None:
        while not self._stop.wait(TICK_SECONDS):
            try:
                self.check()
            except Exception:
                logger.exception("the servers of the fleet could not be checked")

    def _check(self, url: str) -> None:
        try:
            model = served_base(self._client, url)
            base = self._pinned or self._identify(model)
        except GraftworkError as error:
            reason = str(error.fields["reason"]) if isinstance(error, OperationFailed) else str(error)
            logger.warning("%s is not used: %s", url, reason)
            self.fleet.failed(url, reason)
        else:
            self.fleet.ready(url, base=base.digest, model=model)

    def _identify(self, model: str) -> Version:
        """The registered version that a server named after it serves. A name that could move is not believed."""
        try:
            ref = Ref.parse(model)
            version = self._registry.catalog.resolve(ref)
            versions = self._registry.catalog.get(version.name).versions
        except (NotFound, InvalidReference):
            hint = "start it with --served-model-name NAMESPACE/NAME@DIGEST, or set engine_base"
            raise OperationFailed(what="Naming its base", reason=f"it serves {model!r}; {hint}") from None
        is_fixed = ref.number is not None or (ref.digest_prefix and version.digest.startswith(ref.digest_prefix))
        if not is_fixed and versions > 1:
            hint = f"start it with --served-model-name {version.name}@{version.digest[:12]}, or set engine_base"
            raise OperationFailed(what="Naming its base", reason=f"{model!r} has {versions} versions; {hint}")
        return version

    def _require_servable(self, version: Version) -> None:
        reason = self._refusal(version.digest)
        if reason is not None:
            raise UnservableAdapter(adapter=version.ref, engine=capability.ENGINE, reason=reason)

    def _judge(self, digest: str) -> str | None:
        version = self._registry.catalog.by_digest(digest)
        config = next((file for file in version.files if file.path == CONFIG_FILE), None)
        if config is None:
            return f"it has no {CONFIG_FILE}"
        told = json.loads(self._registry.blobs.path(config.sha256, config.generation).read_bytes())
        names = [tensor.name for tensor in self._registry.catalog.tensors(version)]
        return capability.refusal(told, names, max_rank=self._settings.max_lora_rank)
