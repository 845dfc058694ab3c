"""The shape of the source tree: what DESIGN.md promises about files and folders."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "graftwork"
FOLDERS = ("registry", "adapters", "merge", "kernels", "api", "migrations")
LINES = 400
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "manager", "managers", "base", "common", "misc"}
HEAVY = {"torch", "transformers", "peft", "numpy", "pydantic", "sqlalchemy", "fastapi", "rich"}


def sources(*folders: Path) -> list[Path]:
    """Every Python file below `folders`, migrations' generated revisions and symlinks left out."""
    return sorted(
        path
        for folder in folders
        for path in folder.rglob("*.py")
        if "__pycache__" not in path.parts and not any(parent.is_symlink() for parent in path.parents)
    )


CODE = sources(*(ROOT / folder for folder in FOLDERS), PACKAGE)
TESTS = sources(ROOT / "tests")


def label(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("folder", FOLDERS)
def test_each_folder_is_linked_into_the_package(folder: str) -> None:
    link = PACKAGE / folder
    assert link.is_symlink()
    assert link.resolve(strict=True) == ROOT / folder


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_top_of_a_folder_is_no_regular_package(folder: str) -> None:
    assert not (ROOT / folder / "__init__.py").exists()


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_nested_folder_of_code_is_a_regular_package(folder: str) -> None:
    nested = {path.parent for path in sources(ROOT / folder)} - {ROOT / folder}
    assert [label(path) for path in sorted(nested) if not (path / "__init__.py").exists()] == []


def test_there_is_no_init_file_under_tests() -> None:
    assert [label(path) for path in (ROOT / "tests").rglob("__init__.py")] == []


def test_test_files_have_names_of_their_own() -> None:
    names = [path.name for path in TESTS if path.name != "conftest.py"]
    assert sorted(names) == sorted(set(names))


def test_no_file_is_long() -> None:
    lengths = {label(path): len(path.read_text().splitlines()) for path in (*CODE, *TESTS)}
    assert {path: length for path, length in lengths.items() if length > LINES} == {}


def test_no_file_has_a_name_that_says_nothing() -> None:
    assert [label(path) for path in CODE if path.stem in VAGUE_NAMES] == []


def reads_the_environment(tree: ast.AST) -> bool:
    """True when `tree` mentions `os.environ`, `os.environb` or `os.getenv`, by attribute or by import."""
    names = {"environ", "environb", "getenv", "getenvb"}
    return any(
        (isinstance(node, ast.Attribute) and node.attr in names and isinstance(node.value, ast.Name))
        or (isinstance(node, ast.ImportFrom) and node.module == "os" and names & {alias.name for alias in node.names})
        for node in ast.walk(tree)
    )


def test_only_settings_read_the_environment() -> None:
    readers = [label(path) for path in CODE if reads_the_environment(ast.parse(path.read_text()))]
    assert readers == ["src/graftwork/settings.py"]


def test_imports_are_absolute() -> None:
    relative = [
        label(path)
        for path in CODE
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.level > 0
    ]
    assert relative == []


@pytest.mark.parametrize("program", ["import graftwork", "import graftwork.errors", "import graftwork.cli.main"])
def test_the_face_of_the_package_imports_nothing_heavy(program: str) -> None:
    loaded = subprocess.run(
        [sys.executable, "-c", f"{program}; import sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert HEAVY & set(loaded.stdout.split()) == set()
