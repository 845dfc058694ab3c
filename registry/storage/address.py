"""`storage_url`: which store a registry's blobs are in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from graftwork.errors import InvalidSetting
from graftwork.registry.storage.blobs import BlobStore
from graftwork.settings import Settings

EXPECTED = (
    "nothing (files in home) or s3://BUCKET[/PREFIX], with any of ?endpoint_url=URL, &region=NAME "
    "and &downloads=proxy or &downloads=redirect"
)
DOWNLOADS = ("redirect", "proxy")


@dataclass(frozen=True, slots=True)
class Address:
    """A part of a bucket. `prefix` is empty or ends in a slash; `endpoint` is None for Amazon's own."""

    bucket: str
    prefix: str
    endpoint: str | None
    region: str
    redirects: bool
    """Whether clients that download are sent to the storage itself, which they must be able to reach."""

    @classmethod
    def parse(cls, url: str) -> Address:
        """Raises InvalidSetting."""
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        endpoint = options.pop("endpoint_url", None)
        region = options.pop("region", "us-east-1")
        downloads = options.pop("downloads", DOWNLOADS[0])
        if parts.scheme != "s3" or not parts.netloc or options or downloads not in DOWNLOADS:
            raise InvalidSetting(name="storage_url", value=url, expected=EXPECTED)
        if endpoint is not None and urlsplit(endpoint).scheme not in ("http", "https"):
            raise InvalidSetting(name="storage_url", value=url, expected=f"{EXPECTED}; endpoint_url is http or https")
        prefix = parts.path.strip("/")
        return cls(parts.netloc, f"{prefix}/" if prefix else "", endpoint, region, downloads == DOWNLOADS[0])


def open_store(home: Path, settings: Settings) -> BlobStore:
    """The store that the settings name; what of it is on this machine is in `home`. Raises InvalidSetting."""
    if not settings.storage_url:
        from graftwork.registry.storage.local import LocalStore

        return LocalStore(home / "blobs")
    from graftwork.registry.storage.s3 import ObjectStore

    return ObjectStore(home / "blobs", Address.parse(settings.storage_url), settings.storage_cache_bytes)
