"""The error tree: what its docstring draws, what its table maps, and how the code raises it."""

import ast
import inspect
import pickle
import re
import string
from collections.abc import Iterator
from pathlib import Path

import pytest

from graftwork import errors
from graftwork.errors import OUTCOMES, GraftworkError, outcome

ROOT = Path(__file__).parent.parent
FOLDERS = ("registry", "adapters", "merge", "kernels", "api", "migrations", "src/graftwork")
RESERVED = {"type", "title", "status", "detail", "code", "instance"}


def descendants(kind: type[GraftworkError]) -> Iterator[type[GraftworkError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from descendants(child)


TREE = list(descendants(GraftworkError))
BY_NAME = {kind.__name__: kind for kind in TREE}


def fields(kind: type[GraftworkError]) -> set[str]:
    """The names in the braces of the class's docstring."""
    return {name for _, name, _, _ in string.Formatter().parse(kind.__doc__ or "") if name}


def drawn_parents() -> dict[str, str | None]:
    """Each class in the module docstring's drawing, with the class it hangs under."""
    parents: dict[str, str | None] = {}
    path: list[str] = []
    for line in inspect.cleandoc(errors.__doc__ or "").splitlines():
        match = re.fullmatch(r"([ │├└─]*)([A-Z][A-Za-z]+)(  .*)?", line)
        if match is None or match[2] not in BY_NAME:
            continue
        depth = (len(match[1]) + 3) // 4 - 1 if match[1].strip() else 0
        path[depth:] = [match[2]]
        parents[match[2]] = path[depth - 1] if depth else None
    return parents


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_every_error_has_a_message_that_is_one_sentence(kind: type[GraftworkError]) -> None:
    assert kind.__doc__ is not None
    message = str(kind(**dict.fromkeys(fields(kind), "x")))
    assert message.endswith(".")
    assert "\n" not in message
    assert "{" not in message


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_every_error_survives_a_trip_between_processes(kind: type[GraftworkError]) -> None:
    error = kind(**dict.fromkeys(fields(kind), "x"))
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is kind
    assert str(back) == str(error)
    assert back.fields == error.fields


def test_every_code_is_its_own_and_named_after_its_class() -> None:
    codes = {kind.__name__: kind.__dict__.get("code") for kind in TREE}
    snake = {name: re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower() for name in codes}
    snake["GraftworkError"] = "error"
    assert codes == snake


def test_the_drawing_in_the_docstring_is_the_tree() -> None:
    real = {kind.__name__: kind.__base__.__name__ for kind in TREE if kind.__base__ is not None}
    real["GraftworkError"] = None  # type: ignore[assignment]
    assert drawn_parents() == real


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_every_error_has_an_outcome(kind: type[GraftworkError]) -> None:
    told = outcome(kind(**dict.fromkeys(fields(kind), "x")))
    assert 400 <= told.status < 600
    assert told.exit_code in {1, 2, 3, 4, 5}


def test_the_table_names_only_errors_of_the_tree() -> None:
    assert set(OUTCOMES) <= set(TREE)


def test_no_field_hides_a_member_of_the_problem_details() -> None:
    assert {kind.__name__: fields(kind) & RESERVED for kind in TREE if fields(kind) & RESERVED} == {}


def raises() -> Iterator[tuple[str, str, set[str] | None]]:
    """Each place of the code that makes an error of the tree: where, which, and its keywords (None: with `**`)."""
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if any(parent.is_symlink() for parent in path.parents):
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.Call):
                    continue
                name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
                if name not in BY_NAME:
                    continue
                where = f"{path.relative_to(ROOT)}:{node.lineno}"
                keywords = {keyword.arg for keyword in node.keywords}
                named = None if None in keywords else {keyword for keyword in keywords if keyword}
                yield where, name, named if not node.args else {"(positional)"}


def test_every_raise_passes_exactly_the_fields_of_its_message() -> None:
    wrong = {
        where: (name, sorted(given), sorted(fields(BY_NAME[name])))
        for where, name, given in raises()
        if given is not None and given != fields(BY_NAME[name])
    }
    assert wrong == {}


def test_every_leaf_of_the_tree_is_raised_somewhere() -> None:
    leaves = {kind.__name__ for kind in TREE if not kind.__subclasses__()}
    assert leaves - {name for _, name, _ in raises()} == set()
