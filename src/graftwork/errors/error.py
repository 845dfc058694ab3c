"""The root of the tree: an error whose class says its message."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Self


class GraftworkError(Exception):
    """Graftwork could not go on."""

    code = "error"

    def __init__(self, **fields: object) -> None:
        self.fields = fields
        template = inspect.cleandoc(type(self).__doc__ or "").replace("\n", " ")
        super().__init__(template.format(**fields))

    def naming(self, path: Path, name: str) -> Self:
        """The same failure, which calls `path` by `name` and what is below it by its path from there."""

        def named(value: object) -> object:
            is_text = isinstance(value, str | Path)
            return str(value).replace(f"{path}/", "").replace(str(path), name) if is_text else value

        return type(self)(**{field: named(value) for field, value in self.fields.items()})

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.fields)


def _rebuild(kind: type[GraftworkError], fields: dict[str, object]) -> GraftworkError:
    return kind(**fields)
