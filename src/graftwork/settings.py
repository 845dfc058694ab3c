"""What an operator can set. Nothing else in Graftwork reads the environment."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from platformdirs import user_data_path

from graftwork.errors import InvalidSetting

PREFIX = "GRAFTWORK_"
KERNEL_CHOICES = ("auto", "native", "reference")
SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Bytes in `text`: `256MB`, `1.5GiB`, `4096`. K, M, G, T are powers of 1000; Ki, Mi, Gi, Ti of 1024."""
    match = SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError("a size such as 256MB, 1.5GiB or 4096")
    number, unit = float(match[1]), match[2].lower()
    step = 1024 if unit.endswith("i") else 1000
    return int(number * step ** (" kmgt".index(unit[0]) if unit else 0))


@dataclass(frozen=True, slots=True)
class Settings:
    """One field a setting; `GRAFTWORK_<FIELD>` in the environment sets it."""

    home: Path = field(default_factory=lambda: user_data_path("graftwork"))
    """Where the database, the blobs and everything else that lasts is kept."""
    database_url: str = ""
    """An SQLAlchemy URL; empty for SQLite in `home`."""
    kernels: str = "auto"
    """Which kernels may run: `auto` (the fastest that fits), `native` (never Triton), `reference` (plain torch)."""
    threads: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Threads of a merge and of the native kernels."""
    memory: int = 500_000_000
    """Bytes a merge may hold in buffers."""
    host: str = "127.0.0.1"
    port: int = 8000
    max_adapter_bytes: int = 4_000_000_000
    """The largest adapter the API takes in one upload."""
    max_sequences: int = 32
    """Sequences an engine decodes at the same time."""
    max_model_tokens: int = 2048
    """Prompt and completion tokens of one sequence; a model's own limit applies when it is lower."""
    max_queue: int = 1024
    """Requests that may wait for an engine before it answers 429."""
    prefill_tokens: int = 512
    """Prompt tokens an engine admits in one step."""
    adapter_rank_rows: int = 1024
    """Rank rows of resident adapters: 64 adapters of rank 16 take 1024."""

    @property
    def database(self) -> str:
        """The SQLAlchemy URL in force."""
        return self.database_url or f"sqlite:///{self.home / 'registry.db'}"


def load_settings(**overrides: Any) -> Settings:
    """Settings from the environment, then from `overrides` that are not None.

    Raises InvalidSetting for a value that does not parse and for an unknown `GRAFTWORK_` variable.
    """
    known = {PREFIX + f.name.upper(): f.name for f in fields(Settings)}
    values: dict[str, Any] = {}
    for variable, text in os.environ.items():
        if not variable.startswith(PREFIX):
            continue
        if variable not in known:
            raise InvalidSetting(name=variable, value=text, expected=f"one of {', '.join(sorted(known))}")
        values[known[variable]] = _parse(variable, known[variable], text)
    values.update({name: value for name, value in overrides.items() if value is not None})
    settings = Settings(**values)
    if settings.kernels not in KERNEL_CHOICES:
        raise InvalidSetting(
            name=PREFIX + "KERNELS", value=settings.kernels, expected=f"one of {', '.join(KERNEL_CHOICES)}"
        )
    return settings


def _parse(variable: str, name: str, text: str) -> object:
    if name == "home":
        return Path(text).expanduser()
    if name in ("database_url", "kernels", "host"):
        return text
    if name in ("memory", "max_adapter_bytes"):
        try:
            return parse_size(text)
        except ValueError as error:
            raise InvalidSetting(name=variable, value=text, expected=error) from None
    if not text.isdecimal() or int(text) == 0:
        raise InvalidSetting(name=variable, value=text, expected="a positive whole number")
    return int(text)
