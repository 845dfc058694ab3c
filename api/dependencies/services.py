"""What routes ask for: the services of the running server, and names parsed from the path."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated

from anyio import CapacityLimiter
from fastapi import Depends, Request

from graftwork.adapters.fleet.host import FleetHost
from graftwork.adapters.hosting.host import Host
from graftwork.adapters.hosting.serving_host import ServingHost
from graftwork.adapters.hosting.watcher import run_watcher
from graftwork.api.middleware.limits import Rates, token_rates
from graftwork.merge.jobs.scheduler import run_schedules
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
    host: ServingHost
    admission: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(ADMISSION_THREADS))
    """Threads of their own for admissions: while a model is being loaded, everything else is answered."""
    rates: Rates = field(default_factory=lambda: Rates(0, 1))
    """How often each owner of tokens asks."""
    token_rates: Rates = field(default_factory=lambda: token_rates(0))
    """How much inference each of them uses."""


@contextmanager
def open_services(settings: Settings) -> Iterator[Services]:
    """Open the registry, and beside it the host of the engines and the threads of jobs and schedules."""
    stop = threading.Event()
    with Registry.open(settings) as registry:
        host = _open_host(registry, settings)
        worker = threading.Thread(target=run_worker, args=(registry, settings, stop), name="graftwork-worker")
        worker.start()
        scheduler = threading.Thread(target=run_schedules, args=(registry, stop), name="graftwork-scheduler")
        scheduler.start()
        swept = (settings.upload_seconds, stop)
        sweeper = threading.Thread(target=registry.uploads.keep_swept, args=swept, name="graftwork-sweeper")
        sweeper.start()
        watcher = _watcher(registry, host, settings, stop)
        try:
            rates = Rates(settings.requests_per_second, settings.request_burst)
            yield Services(settings, registry, host, rates=rates, token_rates=token_rates(settings.tokens_per_minute))
        finally:
            stop.set()
            if watcher is not None:
                watcher.join()
            host.close()
            sweeper.join()
            scheduler.join()
            worker.join()


def embedded(services: Services) -> Host:
    """The host of the engines in this process; for routes that a gateway to a fleet does not have."""
    if not isinstance(services.host, Host):
        raise TypeError(f"{type(services.host).__name__} has no engines")
    return services.host


def fleet_of(services: Services) -> FleetHost:
    """The host of a gateway; for the routes that only a gateway has."""
    if not isinstance(services.host, FleetHost):
        raise TypeError(f"{type(services.host).__name__} has no fleet")
    return services.host


def _open_host(registry: Registry, settings: Settings) -> ServingHost:
    # the routes of inference differ with it (see `create_app`)
    return FleetHost(registry, settings) if settings.engine == "vllm" else Host(registry, settings)


def _watcher(
    registry: Registry, host: ServingHost, settings: Settings, stop: threading.Event
) -> threading.Thread | None:
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


async def _host(services: ServicesDep) -> ServingHost:
    return services.host


async def _name(namespace: str, name: str) -> Name:
    return Name.parse(f"{namespace}/{name}")


SettingsDep = Annotated[Settings, Depends(_settings)]
RegistryDep = Annotated[Registry, Depends(_registry)]
HostDep = Annotated[ServingHost, Depends(_host)]
NameDep = Annotated[Name, Depends(_name)]
