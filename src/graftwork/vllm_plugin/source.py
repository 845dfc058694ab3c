"""Where adapters come from: a Graftwork server over HTTP, or the folder of a registry."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol
from urllib.parse import quote

from graftwork.adapters.fleet.names import EngineName
from graftwork.errors import OperationFailed
from graftwork.registry.versions.manifest import FileEntry
from graftwork.settings import Settings

TIMEOUT_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Listing:
    """A version as its source describes it; nothing of it is believed before the digest was computed from the bytes."""

    digest: str
    kind: str
    base: str | None
    files: tuple[FileEntry, ...]


class Source(Protocol):
    """Versions by name and digest, and the bytes of their files."""

    def find(self, name: EngineName) -> Listing | None:
        """The version; None when there is none. Raises OperationFailed when the source cannot be asked."""

    def copy(self, name: EngineName, file: FileEntry, target: IO[bytes]) -> Iterator[bytes]:
        """Write a file's bytes to `target`, yielding them on the way. Raises OperationFailed."""


class ServerSource:
    """A Graftwork server, through its REST API."""

    def __init__(self, url: str, token: str = "") -> None:
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def find(self, name: EngineName) -> Listing | None:
        """See `Source`."""
        try:
            with self._open(self._path(name)) as response:
                told: dict[str, Any] = json.load(response)
                files = tuple(FileEntry(file["path"], file["sha256"], file["size"]) for file in told["files"])
                return Listing(told["digest"], told["kind"], told["base"], files)
        except urllib.error.HTTPError as error:
            if error.code == http.client.NOT_FOUND:
                return None
            raise self._failure(name, f"it answered {error.code}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise self._failure(name, "its answer is not a version") from error
        except (OSError, http.client.HTTPException) as error:
            raise self._failure(name, str(error)) from error

    def copy(self, name: EngineName, file: FileEntry, target: IO[bytes]) -> Iterator[bytes]:
        """See `Source`."""
        try:
            with self._open(f"{self._path(name)}/files/{quote(file.path)}") as response:
                while chunk := response.read(1 << 20):
                    target.write(chunk)
                    yield chunk
        except (OSError, http.client.HTTPException) as error:
            raise self._failure(name, str(error)) from error

    def _path(self, name: EngineName) -> str:
        return f"{self._url}/api/v1/artifacts/{name.name}/versions/{name.digest}"

    @contextmanager
    def _open(self, url: str) -> Iterator[Any]:
        request = urllib.request.Request(url)  # noqa: S310 (an operator's own URL)
        for name, value in self._headers.items():
            request.add_unredirected_header(name, value)  # the token is not for the storage that it may redirect to
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:  # noqa: S310
            yield response

    def _failure(self, name: EngineName, reason: str) -> OperationFailed:
        return OperationFailed(what=f"Pulling {name} from {self._url}", reason=reason)


class HomeSource:
    """The registry in a folder that this machine shares, read as Graftwork does: SQLAlchemy and Alembic are needed."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def find(self, name: EngineName) -> Listing | None:
        """See `Source`."""
        from graftwork.errors import NotFound

        with self._registry() as registry:
            try:
                version = registry.catalog.resolve(str(name))
            except NotFound:
                return None
            return Listing(version.digest, version.kind, version.base, version.files)

    def copy(self, name: EngineName, file: FileEntry, target: IO[bytes]) -> Iterator[bytes]:
        """See `Source`."""
        with self._registry() as registry:
            path: Path = registry.blobs.path(file.sha256, file.generation)
        with path.open("rb") as blob:
            while chunk := blob.read(1 << 20):
                target.write(chunk)
                yield chunk

    @contextmanager
    def _registry(self) -> Iterator[Any]:
        try:
            from graftwork.registry.registry import Registry
        except ImportError as error:
            reason = f"{error}; install it here, or set GRAFTWORK_URL"
            raise OperationFailed(what=f"Reading the registry in {self._settings.home}", reason=reason) from error
        with Registry.open(self._settings) as registry:
            yield registry


def source(settings: Settings) -> Source:
    """The source that the settings name: the server of `url`, else the registry in `home`."""
    return ServerSource(settings.url, settings.token) if settings.url else HomeSource(settings)
