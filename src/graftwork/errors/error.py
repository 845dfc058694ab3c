"""The root of the tree: an error whose class says its message."""

from __future__ import annotations

import inspect


class GraftworkError(Exception):
    """Graftwork could not go on."""

    code = "error"

    def __init__(self, **fields: object) -> None:
        self.fields = fields
        template = inspect.cleandoc(type(self).__doc__ or "").replace("\n", " ")
        super().__init__(template.format(**fields))

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.fields)


def _rebuild(kind: type[GraftworkError], fields: dict[str, object]) -> GraftworkError:
    return kind(**fields)
