"""What an operator can set. Nothing else in Graftwork reads the environment."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from graftwork.errors import InvalidSetting

PREFIX = "GRAFTWORK_"
KERNEL_CHOICES = ("auto", "native", "reference")
TEXTS = frozenset(
    {
        "database_url",
        "storage_url",
        "tenant_weights",
        "evaluators",
        "kernels",
        "device",
        "host",
        "engine",
        "engine_urls",
        "engine_base",
        "engine_key",
        "url",
        "token",
        "auth",
        "executor",
        "ray_address",
        "log_format",
        "log_level",
        "trace_url",
    }
)
ENGINE_CHOICES = ("embedded", "vllm")
AUTH_CHOICES = ("auto", "required", "off")
EXECUTOR_CHOICES = ("local", "ray")
LOG_FORMATS = ("text", "json")
LOG_LEVELS = ("debug", "info", "warning", "error")
CHOICES = {
    "kernels": KERNEL_CHOICES,
    "engine": ENGINE_CHOICES,
    "auth": AUTH_CHOICES,
    "executor": EXECUTOR_CHOICES,
    "log_format": LOG_FORMATS,
    "log_level": LOG_LEVELS,
}
MAY_BE_ZERO = frozenset({"requests_per_second", "tokens_per_minute", "ray_workers"})
SIZES = frozenset(
    {
        "memory",
        "cache_bytes",
        "storage_cache_bytes",
        "job_memory",
        "max_adapter_bytes",
        "max_body_bytes",
        "max_checkpoint_bytes",
        "upload_part_bytes",
        "hub_inline_bytes",
        "adapter_form_bytes",
        "adapter_host_bytes",
    }
)
PORTS = range(65536)
SERVICE_LINK = re.compile(rf"{PREFIX}(SERVICE_\w+=.*|PORT_\d+_\w+=.*|PORT=\w+://.*)")
"""What Kubernetes sets in the pods beside a service named graftwork; no setting of ours."""
DEVICE = re.compile(r"cpu(:0)?|cuda(:\d+)?")
SERVER = re.compile(r"https?://[^\s/:]+(:\d{1,5})?(/\S*)?|https?://\[[0-9a-fA-F:.]+\](:\d{1,5})?(/\S*)?")
DEVICES = "cpu, cuda, or one of several GPUs such as cuda:1"
SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Bytes in `text`: `256MB`, `1.5GiB`, `4096`. K, M, G, T are powers of 1000; Ki, Mi, Gi, Ti of 1024."""
    match = SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError("a size such as 256MB, 1.5GiB or 4096")
    number, unit = float(match[1]), match[2].lower()
    step = 1024 if unit.endswith("i") else 1000
    return int(number * step ** (" kmgt".index(unit[0]) if unit else 0))


def _data_folder() -> Path:
    try:
        from platformdirs import user_data_path
    except ImportError:  # in the environment of a vLLM server, which may lack it
        return Path.home() / ".local" / "share" / "graftwork"
    return user_data_path("graftwork")


@dataclass(frozen=True, slots=True)
class Settings:
    """One field a setting; `GRAFTWORK_<FIELD>` in the environment sets it."""

    home: Path = field(default_factory=_data_folder)
    """Where the database, the blobs and everything else that lasts is kept."""
    database_url: str = ""
    """An SQLAlchemy URL; empty for SQLite in `home`."""
    storage_url: str = ""
    """Where blobs are: empty for files in `home`, or `s3://BUCKET/PREFIX?endpoint_url=URL&region=NAME&downloads=proxy`."""
    storage_cache_bytes: int = 20_000_000_000
    """Bytes of blobs of an object storage that are kept in `home` after they were used."""
    gc_grace_seconds: int = 86_400
    """How long bytes stay after the last use of them, and again after garbage collection condemned them."""
    kernels: str = "auto"
    """Which kernels may run: `auto` (the fastest that fits), `native` (never Triton), `reference` (plain torch)."""
    threads: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Threads of a merge and of the native kernels."""
    device: str = "cpu"
    """Where merges of models compute: `cpu`, or a GPU by its torch name, `cuda` or `cuda:1`."""
    memory: int = 500_000_000
    """Bytes a merge may hold in buffers; on a GPU as many again."""
    executor: str = "local"
    """Where merges of models are computed: `local` (this process) or `ray` (a Ray cluster; needs the extra `ray`)."""
    ray_address: str = ""
    """The cluster's `host:port`; empty for the one on this machine, or a new one of this process."""
    ray_workers: int = 0
    """Actors that a merge is spread over, each with `threads` processors; 0 for as many as the cluster has room for."""
    job_memory: int = 0
    """Bytes of data the process of a job may hold before it fails; 0 is no limit."""
    evaluators: str = ""
    """Commands that judge models: `name=command {model}`, several with semicolons between them."""
    evaluator_seconds: int = 3600
    """How long such a command may run."""
    host: str = "127.0.0.1"
    port: int = 8000
    max_adapter_bytes: int = 4_000_000_000
    """The largest adapter the API takes in one upload."""
    max_checkpoint_bytes: int = 400_000_000_000
    """The largest checkpoint the API takes, in parts or in one request."""
    hub_inline_bytes: int = 32_000_000
    """The largest file that a commit of the Hub's clients carries itself; larger ones come by Git LFS before it."""
    upload_part_bytes: int = 16_777_216
    """The size of the parts in which a large upload is sent; larger where its files would have over 10,000 parts."""
    upload_hours: int = 24
    """How long an upload in parts may be left alone before it is deleted."""
    uploads_per_owner: int = 1000
    """Uploads in parts that one owner of tokens may have under way."""
    max_sequences: int = 32
    """Sequences an engine decodes at the same time."""
    max_model_tokens: int = 2048
    """Prompt and completion tokens of one sequence; a model's own limit applies when it is lower."""
    max_queue: int = 1024
    """Requests that may wait for an engine before it answers 429."""
    prefill_tokens: int = 512
    """Prompt tokens an engine admits in one step."""
    encoder_tokens: int = 2048
    """Tokens that an encoder computes in one step, unless one text has more."""
    cache_bytes: int = 1_000_000_000
    """Bytes of an engine's keys and values; what no running sequence needs keeps prefixes that may be asked again."""
    page_tokens: int = 16
    """Positions of one page of that cache; prefixes are shared by whole pages."""
    request_timeout: int = 3600
    """Seconds from a request's arrival until it must be done; a request may ask for less."""
    fair_tokens: int = 128
    """Tokens that a tenant may spend in a turn while others wait."""
    tenant_weights: str = ""
    """Shares of tenants relative to the others' 1, such as `name=2,other=0.5`."""
    adapter_rank_rows: int = 1024
    """Rank rows of resident adapters: 64 adapters of rank 16 take 1024."""
    adapter_form_bytes: int = 2_000_000_000
    """Bytes that resident adapters of an engine may hold beside rank rows: replaced layers, biases, embeddings."""
    adapter_host_bytes: int = 2_000_000_000
    """Bytes of adapters that an engine keeps in host memory, ready for its rows."""
    adapter_loaders: int = 2
    """Threads of an engine that load adapters."""
    adapter_wait_seconds: int = 30
    """How long a request waits for rank rows while all are in use, before it is answered 429."""
    max_engines: int = 4
    """Bases in memory at the same time; an idle engine is unloaded for another one."""
    drain_seconds: int = 30
    """How long requests on a deleted version may go on before they are aborted."""
    watch_seconds: int = 1
    """How often to look for aliases that other processes moved, and for versions that they deleted."""
    engine: str = "embedded"
    """Who computes: `embedded` (this process) or `vllm` (a fleet of vLLM servers behind this one)."""
    engine_urls: str = ""
    """The fleet's servers: their URLs, with commas between them."""
    engine_base: str = ""
    """The reference of the base that the fleet serves; empty when its servers are named after it."""
    engine_key: str = ""
    """The API key that the fleet's servers ask for."""
    engine_requests: int = 256
    """Requests that one server of the fleet is given at a time."""
    max_lora_rank: int = 16
    """The largest rank that the fleet's servers take: their `--max-lora-rank`."""
    url: str = ""
    """The server that the command line works through and the vLLM plugin pulls adapters from; empty for `home`."""
    token: str = ""
    """The bearer token shown to that server."""
    adapter_cache: Path = field(default_factory=lambda: Path.home() / ".cache" / "graftwork" / "adapters")
    """Where the vLLM plugin keeps the adapters it pulled."""

    auth: str = "auto"
    """Whether requests need a bearer token: `required`, `off`, or `auto`: unless `host` is loopback."""

    requests_per_second: int = 0
    """Requests that one owner of tokens may send on average before being answered 429; 0 for any number."""
    request_burst: int = 50
    """How many of them may come at once."""
    tokens_per_minute: int = 0
    """Tokens of prompts and answers that one owner of tokens may use on average before being answered 429; 0 for any
    number. What a request may use at most is counted when it comes, and what it did not use is given back."""
    max_body_bytes: int = 16_000_000
    """The largest JSON body; uploads have limits of their own."""
    log_format: str = "text"
    """How the log is written: `text`, or `json` for one object a line."""
    log_level: str = "info"
    """From which level on: `debug`, `info`, `warning` or `error`."""
    trace_url: str = ""
    """Where traces are sent by OTLP over HTTP, such as `http://127.0.0.1:4318/v1/traces`; needs the extra `otel`."""

    @property
    def authenticated(self) -> bool:
        """Whether requests need a bearer token."""
        return self.auth == "required" or (self.auth == "auto" and not is_loopback(self.host))

    @property
    def database(self) -> str:
        """The SQLAlchemy URL in force."""
        return self.database_url or f"sqlite:///{self.home / 'registry.db'}"

    @property
    def upload_seconds(self) -> float:
        """`upload_hours` in seconds."""
        return self.upload_hours * 3600.0


def load_settings(**overrides: Any) -> Settings:
    """Settings from the environment, then from `overrides` that are not None.

    Raises InvalidSetting for a value that does not parse and for an unknown `GRAFTWORK_` variable.
    """
    known = {PREFIX + f.name.upper(): f.name for f in fields(Settings)}
    values: dict[str, Any] = {}
    for variable, text in os.environ.items():
        if not variable.startswith(PREFIX) or SERVICE_LINK.fullmatch(f"{variable}={text}"):
            continue
        if variable not in known:
            raise InvalidSetting(name=variable, value=text, expected=_instead_of(variable, known))
        values[known[variable]] = _parse(variable, known[variable], text)
    values.update({name: value for name, value in overrides.items() if value is not None})
    settings = Settings(**values)
    for name, choices in CHOICES.items():
        if getattr(settings, name) not in choices:
            expected = f"one of {', '.join(choices)}"
            raise InvalidSetting(name=PREFIX + name.upper(), value=getattr(settings, name), expected=expected)
    if settings.port not in PORTS:
        raise InvalidSetting(name=f"{PREFIX}PORT", value=settings.port, expected=f"{PORTS[0]} to {PORTS[-1]}")
    if not DEVICE.fullmatch(settings.device):
        raise InvalidSetting(name=f"{PREFIX}DEVICE", value=settings.device, expected=DEVICES)
    if settings.url and not SERVER.fullmatch(settings.url):
        expected = "the URL of a server, such as http://127.0.0.1:8000"
        raise InvalidSetting(name=f"{PREFIX}URL", value=settings.url, expected=expected)
    return settings


def environment(settings: Settings) -> dict[str, str]:
    """The environment of a process to start, in which `load_settings` makes these settings again."""
    return {**os.environ, **variables(settings)}


def variables(settings: Settings) -> dict[str, str]:
    """The variables that make these settings."""
    return {PREFIX + field.name.upper(): str(getattr(settings, field.name)) for field in fields(settings)}


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server bound to `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _instead_of(variable: str, known: Iterable[str]) -> str:
    """What to set instead of a variable that is none of the settings."""
    import difflib

    close = difflib.get_close_matches(variable, known, n=1)
    return f"no setting of this name (did you mean {close[0]}?)" if close else f"one of {', '.join(sorted(known))}"


def _parse(variable: str, name: str, text: str) -> object:
    if name in ("home", "adapter_cache"):
        return Path(text).expanduser()
    if name in TEXTS:
        return text
    if name in SIZES:
        try:
            return parse_size(text)
        except ValueError as error:
            raise InvalidSetting(name=variable, value=text, expected=error) from None
    if not text.isdecimal() or (int(text) == 0 and name not in MAY_BE_ZERO):
        raise InvalidSetting(name=variable, value=text, expected="a positive whole number")
    return int(text)
