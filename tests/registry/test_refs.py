from __future__ import annotations

import string
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftwork.errors import InvalidName, InvalidReference
from graftwork.registry.refs import Name, Ref, check_alias

PARTS = st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,95}", fullmatch=True)


@given(PARTS, PARTS)
def test_a_name_reads_back_as_it_was_written(namespace: str, name: str) -> None:
    assert Name.parse(f"{namespace}/{name}") == Name(namespace, name)
    assert str(Name.parse(f"{namespace}/{name}")) == f"{namespace}/{name}"


@given(PARTS, PARTS, PARTS)
def test_a_reference_reads_back_as_it_was_written(namespace: str, name: str, revision: str) -> None:
    ref = Ref.parse(f"{namespace}/{name}@{revision}")
    assert ref.revision == (None if revision == "latest" else revision)
    assert Ref.parse(str(ref)) == ref


@pytest.mark.parametrize(
    "text",
    ["", "a", "/", "a/", "/b", "a/b/c", ".a/b", "a/..", "../b", "a/b c", "a/b\n", "a/é", "a\\b/c", "a/" + "b" * 97],
)
def test_a_malformed_name_is_refused(text: str) -> None:
    with pytest.raises(InvalidName, match="NAMESPACE/NAME"):
        Name.parse(text)


@pytest.mark.parametrize("text", ["a", "a/b@", "a/b@c@d", "a/b@.x", "a/b@x/y", "@v1", "a/b@\0"])
def test_a_malformed_reference_is_refused(text: str) -> None:
    with pytest.raises(InvalidReference):
        Ref.parse(text)


def test_a_revision_is_a_number_or_digits_of_a_digest_or_neither() -> None:
    assert Ref.parse("a/b@v3").number == 3
    assert Ref.parse("a/b@v0").number is None
    assert Ref.parse("a/b@DEADBEEF").digest_prefix == "deadbeef"
    assert Ref.parse("a/b@deadbee").digest_prefix is None
    assert Ref.parse("a/b@prod").number is None
    assert Ref.parse("a/b").digest_prefix is None


@pytest.mark.parametrize("alias", ["latest", "Latest", "v1", "V20", "a" * 40, "0" * 64, "", ".x", "a/b", "é"])
def test_a_reserved_or_malformed_alias_is_refused(alias: str) -> None:
    with pytest.raises(InvalidName, match="alias"):
        check_alias(alias)


@pytest.mark.parametrize("alias", ["prod", "v1.2", "candidate-3", "a" * 39, string.ascii_letters])
def test_any_other_alias_is_accepted(alias: str) -> None:
    assert check_alias(alias) == alias


def test_opening_a_registry_imports_no_heavy_library() -> None:
    code = """
import sys, tempfile, pathlib
import graftwork.registry.transfer.importer, graftwork.registry.transfer.snapshots
from graftwork.registry.registry import Registry
from graftwork.settings import Settings
home = pathlib.Path(tempfile.mkdtemp())
Registry.open(Settings(home=home)).close()
for name in [name for name in sys.modules if name.split(".")[0] == "alembic"]:
    del sys.modules[name]
Registry.open(Settings(home=home)).close()
heavy = {"torch", "numpy", "transformers", "peft", "safetensors", "huggingface_hub", "alembic"}
print(sorted(heavy & set(sys.modules)))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
