"""What adapters are checked against: the tensors and the configuration of bases, kept for those asked for last."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from graftwork.registry.catalog.catalog import Catalog
from graftwork.registry.formats.config import read_object
from graftwork.registry.storage.blobs import BlobStore
from graftwork.registry.versions.version import TensorRecord, Version

CONFIG_FILE = "config.json"
REMEMBERED = 32


@dataclass(frozen=True, slots=True)
class Base:
    """A version's tensors by their names, and what is in its `config.json`; nothing when it has none."""

    tensors: Mapping[str, TensorRecord]
    config: Mapping[str, object]


class Bases:
    """Bases by their digests, under which they never differ. Thread-safe."""

    def __init__(self, catalog: Catalog, blobs: BlobStore) -> None:
        self._catalog = catalog
        self._blobs = blobs
        self._known: OrderedDict[str, Base] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, version: Version) -> Base:
        """What an adapter on `version` is checked against. Raises CorruptBlob when its configuration is gone."""
        with self._lock:
            if (known := self._known.get(version.digest)) is not None:
                self._known.move_to_end(version.digest)
                return known
        base = self._read(version)
        with self._lock:
            self._known[version.digest] = base
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return base

    def _read(self, version: Version) -> Base:
        tensors = {tensor.name: tensor for tensor in self._catalog.tensors(version)}
        file = next((file for file in version.files if file.path == CONFIG_FILE), None)
        config = {} if file is None else read_object(self._blobs.path(file.sha256, file.generation), CONFIG_FILE)
        return Base(tensors, config)
