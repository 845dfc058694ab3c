"""What a merge method is: one dataclass whose fields are its parameters.

An instance holds the parameters of one tensor (or of one adapted module). A method names the space it works in:

- `weight`: it combines the models' values;
- `delta`: it combines the models' differences from the base, which the kernels subtract and add back;
- `adapter`: it combines the low-rank factors of one module.

Methods of the first two spaces are elementwise: they combine one slice at a time, after the statistic they ask for
was measured over the whole tensor or the whole model. Methods see no files, shards, threads or devices.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol, TypeVar

from pydantic import Field, TypeAdapter

from graftwork.errors import UnknownMethod
from graftwork.merge.recipe.recipe import did_you_mean
from graftwork.merge.slices.slices import Array, Slice
from graftwork.merge.statistics.passes import Statistic

T = TypeVar("T")
Space = Literal["weight", "delta", "adapter"]

PER_MODEL = "per model"
COMPAT = "compat_"
"""The field by which a method with `quirks` is told to reproduce mergekit's deviations; it is no parameter."""
PerModel = Annotated[tuple[T, ...], PER_MODEL]
"""One value a model. A recipe gives it at the model, or once for all of them; a default of one value is for each."""

Number = Annotated[float, Field(allow_inf_nan=False)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Density = Annotated[float, Field(ge=0, le=1)]
"""A fraction of what a model adds; with 0 the model adds nothing."""
Rank = Annotated[int, Field(ge=1)]

LOCAL_FILE = "local file"
LocalFile = Annotated[str, LOCAL_FILE]
"""The path of a file beside the recipe; recipes that may not name folders of this machine may not give one."""
MAX_NAME = 64


class Elementwise(Protocol):
    """A method of the weight or the delta space. A field that clashes with a keyword ends in `_`.

    `__post_init__` raises ValueError, with the end of a sentence, for parameters that contradict each other.

    Four more things a class may say: `needs_base = True` (a recipe must name a base, though it works on weights),
    `takes_base = True` (a base is used where a recipe names one, and is no model then), and `quirks = True` beside a
    field `compat_: bool = False`, which is no parameter: it is set by a recipe with `compat: mergekit`;
    and `element_bytes(inputs)`, the memory that an element of a slice takes while it is combined. A statistic may have
    the last, too.
    """

    models: ClassVar[tuple[int, int | None]]
    """How many models it takes besides the base: at least, at most."""

    def statistic(self) -> Statistic[Any] | None:
        """What must be known of the whole tensor, or the whole model, before the first slice is combined."""

    def combine(self, out: Array, piece: Slice, measured: Any, scale: float) -> None:
        """Write the merged slice to `out`; in the delta space the merged delta is multiplied by `scale` first."""


def scratch_bytes(part: object, inputs: int) -> int:
    """What a method or a statistic says an element of a slice takes besides what it is read into and written to."""
    return int(part.element_bytes(inputs)) if hasattr(part, "element_bytes") else 0


class Parameter:
    """One parameter of a method: its name in recipes, what it accepts, its default."""

    def __init__(self, field: dataclasses.Field[Any], hint: Any) -> None:
        self.field = field.name
        self.name = field.name.rstrip("_")
        self.per_model = PER_MODEL in getattr(hint, "__metadata__", ())
        self.hint = typing.get_args(typing.get_args(hint)[0])[0] if self.per_model else hint
        self.required = field.default is dataclasses.MISSING
        default = None if self.required else field.default
        self.default = default[0] if self.per_model and isinstance(default, tuple) else default

    @cached_property
    def accepts(self) -> TypeAdapter[Any]:
        """What checks one value."""
        return TypeAdapter(self.hint)

    @property
    def is_file(self) -> bool:
        """Whether its value is the path of a file of this machine."""
        return any(LOCAL_FILE in getattr(hint, "__metadata__", ()) for hint in (self.hint, *typing.get_args(self.hint)))

    def schema(self) -> dict[str, Any]:
        """The JSON schema of one value, with the default."""
        described = self.accepts.json_schema()
        return described if self.required else {**described, "default": self.default}


@dataclass(frozen=True, slots=True)
class Method:
    """A merge method as the planner, the command line and the documentation see it."""

    name: str
    space: Space
    cites: str
    kind: type[Any]
    parameters: Mapping[str, Parameter]

    @property
    def summary(self) -> str:
        """The first line of the method's docstring."""
        return inspect.cleandoc(self.kind.__doc__ or "").splitlines()[0]

    @property
    def description(self) -> str:
        """The method's docstring."""
        return inspect.cleandoc(self.kind.__doc__ or "")

    @property
    def models(self) -> tuple[int, int | None]:
        """How many models it takes besides the base: at least, at most."""
        bounds: tuple[int, int | None] = self.kind.models
        return bounds

    @property
    def needs_base(self) -> bool:
        """Whether a recipe must name a base_model."""
        return self.space == "delta" or bool(getattr(self.kind, "needs_base", False))

    @property
    def takes_base(self) -> bool:
        """Whether a base that a recipe names is apart from the models; otherwise it only lends its configuration."""
        return self.needs_base or bool(getattr(self.kind, "takes_base", False))

    @property
    def has_quirks(self) -> bool:
        """Whether `compat: mergekit` changes what it computes."""
        return bool(getattr(self.kind, "quirks", False))

    def schema(self) -> dict[str, Any]:
        """The JSON schema of the method's parameters."""
        return {
            "type": "object",
            "properties": {
                name: {**parameter.schema(), "perModel": parameter.per_model}
                for name, parameter in self.parameters.items()
            },
            "required": [name for name, parameter in self.parameters.items() if parameter.required],
            "additionalProperties": False,
        }

    def build(self, values: Mapping[str, Any], *, compat: bool = False) -> Any:
        """An instance for one tensor, from the value of each parameter by its recipe name; per-model ones are tuples.

        compat: reproduce what mergekit does differently, where the method says so

        Raises ValueError when they contradict each other.
        """
        fields = {parameter.field: values[name] for name, parameter in self.parameters.items()}
        return self.kind(**fields, **({COMPAT: compat} if self.has_quirks else {}))

    def check(self, built: Any, tensor: str) -> None:
        """Let an instance that has a `check` look at the name of a tensor; it raises ValueError when it refuses it."""
        if hasattr(built, "check"):
            built.check(tensor)


_METHODS: dict[str, Method] = {}
Kind = TypeVar("Kind", bound=type[Any])


def merge_method(name: str, *, space: Space, cites: str) -> Callable[[Kind], Kind]:
    """Register a dataclass as the merge method `name`; its fields become its parameters."""

    def register(kind: Kind) -> Kind:
        hints = typing.get_type_hints(kind, include_extras=True)
        fields = [field for field in dataclasses.fields(kind) if field.init and field.name != COMPAT]
        parameters = [Parameter(field, hints[field.name]) for field in fields]
        _METHODS[name] = Method(name, space, cites, kind, {parameter.name: parameter for parameter in parameters})
        return kind

    return register


def methods() -> Mapping[str, Method]:
    """Every merge method by name: those of the files in merge/methods."""
    for file in sorted((Path(__file__).parent / "methods").glob("[!_]*.py")):
        importlib.import_module(f"graftwork.merge.methods.{file.stem}")
    return dict(sorted(_METHODS.items()))


def find_method(name: str) -> Method:
    """The method called `name`; raises UnknownMethod."""
    if name.isidentifier() and len(name) <= MAX_NAME and (Path(__file__).parent / "methods" / f"{name}.py").is_file():
        importlib.import_module(f"graftwork.merge.methods.{name}")  # the others' imports would take longer than a merge
        if name in _METHODS:
            return _METHODS[name]
    known = methods()
    if name not in known:
        raise UnknownMethod(method=name, known=did_you_mean(name, known))
    return known[name]
