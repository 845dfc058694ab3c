"""The command line in this process, in a registry of the test's own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

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

    def run(*arguments: str | Path) -> Told:
        environment = {"GRAFTWORK_HOME": str(home), "COLUMNS": "200", "GRAFTWORK_THREADS": "1"}
        result = CliRunner(env=environment).invoke(main, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Told(result.exit_code, result.stdout, result.stderr)

    return run
