"""The door of the registry: one folder, one database, and what hangs on them."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

from graftwork.errors import InvalidSetting
from graftwork.registry.access.audit import Audit
from graftwork.registry.access.tokens import Tokens
from graftwork.registry.arrivals.repositories import Repositories
from graftwork.registry.arrivals.uploads import Uploads
from graftwork.registry.catalog.aliases import Aliases
from graftwork.registry.catalog.bases import Bases
from graftwork.registry.catalog.catalog import Catalog
from graftwork.registry.catalog.evaluations import Evaluations
from graftwork.registry.catalog.quotas import Quotas
from graftwork.registry.catalog.tags import Tags
from graftwork.registry.db import Database
from graftwork.registry.jobs.events import JobEvents
from graftwork.registry.jobs.jobs import Jobs
from graftwork.registry.jobs.schedules import Schedules
from graftwork.registry.storage.address import open_store
from graftwork.registry.storage.blobs import BlobStore
from graftwork.registry.storage.deposits import Deposits
from graftwork.registry.versions.lineage import Lineage
from graftwork.registry.versions.marks import Marks
from graftwork.settings import PREFIX, Settings


class Registry:
    """An open registry. Any number of threads may use it, and any number of processes may open the same one."""

    def __init__(self, home: Path, database: Database, blobs: BlobStore) -> None:
        self.home = home
        self.database = database
        self.blobs = blobs
        self.deposits = Deposits(database, self.blobs)
        self.catalog = Catalog(database, self.blobs)
        self.bases = Bases(self.catalog, self.blobs)
        self.aliases = Aliases(database)
        self.lineage = Lineage(database)
        self.jobs = Jobs(database)
        self.schedules = Schedules(database, self.jobs)
        self.evaluations = Evaluations(database)
        self.job_events = JobEvents(database)
        self.marks = Marks(database)
        self.tags = Tags(database)
        self.audit = Audit(database)
        self.repositories = Repositories(database)
        self.tokens = Tokens(database)
        self.quotas = Quotas(database)
        self.uploads = Uploads(home, database)

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """Open the registry in `settings.home`, made and migrated where needed.

        Raises OperationFailed when a newer Graftwork wrote it, InvalidSetting for another kind of database or a home
        that cannot be made.
        """
        try:
            settings.home.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            expected = f"a folder, which can be made where it is missing ({error.strerror})"
            raise InvalidSetting(name=f"{PREFIX}HOME", value=str(settings.home), expected=expected) from None
        registry = cls(settings.home, Database(settings.database), open_store(settings.home, settings))
        try:
            registry.blobs.create()
            registry.database.migrate()
        except BaseException:
            registry.close()
            raise
        return registry

    def close(self) -> None:
        """Close the connections to the database."""
        self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
