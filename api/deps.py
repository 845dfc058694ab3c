"""What routes ask for: the services of the running server, and names parsed from the path."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, cast

from anyio import CapacityLimiter
from fastapi import Depends, Request

from graftwork.adapters.host import Host
from graftwork.adapters.watcher import run_watcher
from graftwork.api.gateway.host import FleetHost
from graftwork.merge.jobs.worker import run_worker
from graftwork.registry.refs import Name
from graftwork.registry.registry import Registry
from graftwork.settings import Settings

ADMISSION_THREADS = 64


@dataclass(frozen=True, slots=True)
class Services:
    """What lives as long as the server: opened and closed by the application's lifespan."""

    settings: Settings
    registry: Registry
    host: Host
    admission: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(ADMISSION_THREADS))
    """Threads of their own for admissions: while a model is being loaded, everything else is answered."""


@contextmanager
def open_services(settings: Settings) -> Iterator[Services]:
    """Open the registry, and beside it the host of the engines and a thread that carries out merges."""
    stop = threading.Event()
    with Registry.open(settings) as registry:
        host = _open_host(registry, settings)
        worker = threading.Thread(target=run_worker, args=(registry, settings, stop), name="graftwork-worker")
        worker.start()
        watcher = _watcher(registry, host, settings, stop)
        try:
            yield Services(settings, registry, host)
        finally:
            stop.set()
            if watcher is not None:
                watcher.join()
            host.close()
            worker.join()


def _open_host(registry: Registry, settings: Settings) -> Host:
    if settings.engine == "vllm":
        # moving aliases asks the same of both hosts; the routes of inference differ with them (see `create_app`)
        return cast(Host, FleetHost(registry, settings))
    return Host(registry, settings)


def _watcher(registry: Registry, host: Host, settings: Settings, stop: threading.Event) -> threading.Thread | None:
    if not isinstance(host, Host):  # a fleet resolves every reference anew and holds nothing
        return None
    options = {"seconds": float(settings.watch_seconds)}
    watcher = threading.Thread(
        target=run_watcher, args=(registry, host, stop), kwargs=options, name="graftwork-watcher"
    )
    watcher.start()
    return watcher


async def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


ServicesDep = Annotated[Services, Depends(_services)]


async def _settings(services: ServicesDep) -> Settings:
    return services.settings


async def _registry(services: ServicesDep) -> Registry:
    return services.registry


async def _host(services: ServicesDep) -> Host:
    return services.host


async def _name(namespace: str, name: str) -> Name:
    return Name.parse(f"{namespace}/{name}")


SettingsDep = Annotated[Settings, Depends(_settings)]
RegistryDep = Annotated[Registry, Depends(_registry)]
HostDep = Annotated[Host, Depends(_host)]
NameDep = Annotated[Name, Depends(_name)]
