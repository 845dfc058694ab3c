"""Fetching models from the Hugging Face Hub, or from whatever server `HF_ENDPOINT` names."""

from __future__ import annotations

import fcntl
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from graftwork.errors import HubUnavailable, InvalidReference, SourceNotFound
from graftwork.registry.formats.folder import ACCEPTED_NAMES, ACCEPTED_SUFFIXES
from graftwork.registry.storage.blobs import refuse_full

PREFIX = "hf:"
SOURCE = re.compile(r"hf:(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?", re.ASCII)
FORM = "hf:ORG/NAME or hf:ORG/NAME@REVISION"
WANTED = [f"*{suffix}" for suffix in sorted(ACCEPTED_SUFFIXES)] + sorted(ACCEPTED_NAMES)
UNWANTED = ["original/*", "consolidated*"]
"""Second copies of the weights, in their authors' own layout."""


@dataclass(frozen=True, slots=True)
class Download:
    """A repository's files at one commit: links in `folder` to files elsewhere under `cache`."""

    repository: str
    commit: str
    folder: Path
    cache: Path


def download(source: str, cache: Path | None = None) -> Path:
    """Fetch `hf:org/name[@rev]` into `cache` (by default the cache of huggingface_hub). Returns the snapshot's folder.

    Pickles and code are not fetched. huggingface_hub shows its own progress. Raises InvalidReference, SourceNotFound,
    HubUnavailable, StorageFull.
    """
    match = SOURCE.fullmatch(source)
    if match is None:
        raise InvalidReference(value=source, expected=FORM)
    from huggingface_hub import errors as hub
    from huggingface_hub import snapshot_download

    # the HTTP client of huggingface_hub, and so its errors, differ by release
    failures: tuple[type[BaseException], ...] = (OSError, *hub.HfHubHTTPError.__bases__)
    try:
        with refuse_full(cache or Path.home()):
            folder = snapshot_download(
                match["repository"],
                revision=match["revision"],
                cache_dir=cache,
                allow_patterns=WANTED,
                ignore_patterns=UNWANTED,
            )
    except hub.HFValidationError:
        raise InvalidReference(value=source, expected=FORM) from None
    except (hub.RepositoryNotFoundError, hub.RevisionNotFoundError) as error:
        expected = "a repository and revision of the Hub that is public, or that HF_TOKEN gives access to"
        raise SourceNotFound(source=source, expected=expected) from error
    except failures as error:
        raise HubUnavailable(source=source, reason=str(error).splitlines()[0].rstrip(".")) from error
    return Path(folder)


@contextmanager
def downloaded(source: str, cache: Path) -> Iterator[Download]:
    """Fetch `source` into `cache` for as long as the context lasts; an interrupted download is gone on with.

    The files may be moved away. Another process that wants the same repository waits. Raises what `download` does.
    """
    repository = source.removeprefix(PREFIX).partition("@")[0]
    own = cache / repository.replace("/", "--")
    own.mkdir(parents=True, exist_ok=True)
    with (cache / f"{own.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = download(source, own)
        try:
            yield Download(repository, folder.name, folder, own)
        finally:
            shutil.rmtree(own, ignore_errors=True)
