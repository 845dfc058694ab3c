"""docs/methods.md says what the code says."""

from __future__ import annotations

from pathlib import Path

import pytest

from graftwork.merge.document import Documentation, document
from graftwork.merge.method import methods

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"


def test_the_page_is_up_to_date() -> None:
    told = PAGE.read_text(encoding="utf-8")
    assert told == document(), "write it again: python -m graftwork.merge.document docs/methods.md"


@pytest.mark.parametrize("name", methods())
def test_every_method_says_what_each_parameter_means_and_when_to_use_it(name: str) -> None:
    method = methods()[name]
    told = Documentation.of(method.description)
    assert told.parameters.keys() >= method.parameters.keys()
    assert told.use, "a paragraph that begins with: Use it"


def test_a_docstring_is_taken_apart() -> None:
    told = Documentation.of(
        """What it does.

        weight: how much,
                of what
        t:      how far

        A formula: out = x.
        mergekit: does it
        otherwise.
        paper (section 2): as here.
        Use it rarely.
        """
    )
    assert told.text == ("What it does.", "A formula: out = x.")
    assert told.parameters == {"weight": "how much, of what", "t": "how far"}
    assert told.mergekit == ("mergekit: does it otherwise.",)
    assert told.paper == ("paper (section 2): as here.",)
    assert told.use == ("Use it rarely.",)
