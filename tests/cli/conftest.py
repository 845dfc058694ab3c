"""The command line in this process, in a registry of the test's own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from graftwork.api.application.app import create_app
from graftwork.api.application.server import running
from graftwork.cli.main import main
from graftwork.registry.refs import Name, Ref
from graftwork.registry.registry import Registry
from graftwork.registry.transfer.importer import import_source
from graftwork.settings import Settings
from graftwork.testing.family import Family
from graftwork.testing.tiny import tiny_family


@dataclass(frozen=True)
class Told:
    """What a command said, and how it ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)


Graft = Callable[..., Told]
Run = Callable[..., tuple[int, str, str]]


def invoked(environment: dict[str, str], *arguments: object, stdin: bytes | None = None) -> tuple[int, str, str]:
    """How a command ends, and what it says."""
    base = {"COLUMNS": "200", "GRAFTWORK_THREADS": "1"}
    result = CliRunner(env={**base, **environment}).invoke(main, [str(argument) for argument in arguments], stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return tiny_family(tmp_path_factory.mktemp("family"), fine_tunes=2, adapters=2)


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory, family: Family) -> Path:
    """A registry with `tiny/base`, `tiny/ft0`, `tiny/ft1`, and `tiny/a` in two versions, `prod` at the first."""
    home = tmp_path_factory.mktemp("filled")
    base = Ref.parse("tiny/base")
    with Registry.open(Settings(home=home)) as registry:
        import_source(registry, str(family.base), base.name)
        for name, folder in family.fine_tunes.items():
            import_source(registry, str(folder), Name("tiny", name), base=base)
        import_source(registry, str(family.adapters["adapter0"]), Name("tiny", "a"), base=base, aliases=["prod"])
        import_source(registry, str(family.adapters["adapter1"]), Name("tiny", "a"), base=base)
    return home


@pytest.fixture
def home(filled: Path, tmp_path: Path) -> Path:
    """A copy of the filled registry."""
    return Path(shutil.copytree(filled, tmp_path / "home"))


@pytest.fixture
def graft(home: Path) -> Graft:
    """Runs `graft` in `home`."""

    return lambda *arguments, **stdin: Told(*invoked({"GRAFTWORK_HOME": str(home)}, *arguments, **stdin))


@pytest.fixture
def invoke() -> Run:
    """Runs a command in an environment of its own."""
    return invoked


@pytest.fixture(scope="module")
def shared(filled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the filled registry for this module, which a server works on too."""
    return Path(shutil.copytree(filled, tmp_path_factory.mktemp("shared") / "home"))


@pytest.fixture(scope="module")
def url(shared: Path) -> Iterator[str]:
    with running(create_app(Settings(home=shared, threads=1, upload_part_bytes=65_536))) as served:
        yield served


@pytest.fixture
def here(shared: Path, url: str) -> Run:
    """Runs a command in the registry, while the server is up, as the one who the server says it is."""
    return lambda *arguments: invoked({"GRAFTWORK_HOME": str(shared), "LOGNAME": "api"}, *arguments)


@pytest.fixture
def there(url: str, tmp_path: Path) -> Run:
    """Runs a command through the server, on a machine whose own registry is not there."""
    return lambda *arguments: invoked({"GRAFTWORK_HOME": str(tmp_path / "none"), "GRAFTWORK_URL": url}, *arguments)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    file = tmp_path / "recipe.yaml"
    models = [{"model": f"tiny/ft{number}@v1", "parameters": {"weight": 0.5}} for number in (0, 1)]
    file.write_text(json.dumps({"merge_method": "task_arithmetic", "base_model": "tiny/base@v1", "models": models}))
    return file
