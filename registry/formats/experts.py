"""An expert set: `experts.json`, which names low-rank experts and how they are routed, beside `experts.safetensors`.

The experts are adapters of the registry, pinned by digest, or factors in the set's own weights. `docs/experts.md` has
every field with examples. What is in the weights is told by the tensors' names:

    router.MODULE.weight [units, in], .bias [units]    a linear router of one module
    router.0.weight [hidden, d], router.0.bias, ...     the layers of one router for all modules (scope "set")
    tasks.MODULE [tasks, heads, experts]                a task table of one module
    scaling [experts], scaling.MODULE [experts] or [experts, out]
    experts.NAME.MODULE.lora_A [rank, in], .lora_B [out, rank], whose product is the change
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from graftwork.errors import InvalidExpertSet
from graftwork.errors.wording import first_problem, in_words
from graftwork.registry.formats.config import check_configs, read_object
from graftwork.registry.formats.folder import list_files
from graftwork.registry.formats.safetensors import Header, TensorInfo, read_header

CONFIG_FILE = "experts.json"
WEIGHTS_FILE = "experts.safetensors"
FORMAT = "graftwork-experts-1"
MAX_HEADER_BYTES = 16_000_000
ROUTER = re.compile(r"router\.(?P<module>.+)\.(?P<side>weight|bias)")
TASKS = re.compile(r"tasks\.(?P<module>.+)")
SCALING = re.compile(r"scaling(\.(?P<module>.+))?")
INLINE = re.compile(r"experts\.(?P<expert>[^.]+)\.(?P<module>.+)\.lora_(?P<side>[AB])")
TASK = re.compile(r"(?!\s)[^\[\]+*\r\n]{1,96}(?<!\s)")
LAYERS = re.compile(r"\d{1,6}(-(\d{1,6})?)?")
LAYERS_EXPECTED = "layer numbers and ranges, such as 3 or 8- or 0-3,7"
FLOATS = ("F32", "F16", "BF16", "F64")


class Entry(BaseModel):
    """One expert. `adapter` is the digest of an adapter; without it, its factors are in the set's weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,96}$")]
    adapter: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    weight: FiniteFloat = 1.0
    always: bool = False
    """Whether it is added to every row outside of the routing."""
    deactivate: str | None = None
    """Layers that it leaves alone (S3T): `8-`, or `0-3,7`."""


class Router(BaseModel):
    """How the experts' weights are found; what a field means is in docs/experts.md."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["fixed", "task-table", "arrow", "linear"] = "fixed"
    granularity: Literal["token", "request"] = "token"
    unit: Literal["expert", "rank"] = "expert"
    scope: Literal["module", "set"] = "module"
    activation: Literal["softmax", "sigmoid"] = "softmax"
    top_k: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    renormalise: bool = True
    gate_scale: FiniteFloat = 1.0
    bias: Literal["logits", "gates", "selection"] = "logits"
    combine: Literal["outputs", "factors"] = "outputs"
    tasks: dict[str, list[FiniteFloat]] | list[str] = {}

    @property
    def routes_rows(self) -> bool:
        """Whether the weights depend on the input."""
        return self.kind in ("arrow", "linear")


class Document(BaseModel):
    """The content of `experts.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["graftwork-experts-1"]
    experts: Annotated[tuple[Entry, ...], Field(min_length=1, max_length=256)]
    router: Router = Router()


@dataclass(frozen=True, slots=True)
class ExpertsLayout:
    """A folder of an expert set whose every tensor is accounted for."""

    root: Path
    files: tuple[str, ...]
    document: Document
    header: Header | None
    """Of the weights, if it has any."""

    @property
    def members(self) -> tuple[str, ...]:
        """The digests of the adapters that it names, in order, each once."""
        digests = (entry.adapter for entry in self.document.experts if entry.adapter is not None)
        return tuple(dict.fromkeys(digests))

    @property
    def facts(self) -> dict[str, object]:
        """Its router, where it is not as usual, and its experts with their weights."""
        router = self.document.router
        told = {"kind": router.kind, **router.model_dump(exclude_defaults=True)}
        return {"router": told, "experts": {entry.name: entry.weight for entry in self.document.experts}}

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """The tensors of its weights."""
        return self.header.tensors if self.header is not None else {}


def read_experts(root: Path, *, links_to: Path | None = None) -> ExpertsLayout:
    """Read the document and the header of the expert set in the folder `root`; `links_to`: see `list_files`.

    Raises InvalidExpertSet naming the field or the tensor at fault, UnsafeFile, InvalidSafetensors, TooLarge.
    """
    files = list_files(root, links_to=links_to)
    if CONFIG_FILE not in files:
        raise InvalidExpertSet(path=str(root), reason=f"it has no {CONFIG_FILE}")
    if stray := [name for name in files if name.endswith(".safetensors") and name != WEIGHTS_FILE]:
        raise InvalidExpertSet(path=str(root), reason=f"{stray[0]!r} is not part of an expert set")
    check_configs(root, files)
    document = parse_document(read_object(root / CONFIG_FILE, CONFIG_FILE), str(root))
    header = None
    if WEIGHTS_FILE in files:
        header = read_header(root / WEIGHTS_FILE, label=WEIGHTS_FILE, max_bytes=MAX_HEADER_BYTES)
    layout = ExpertsLayout(root, files, document, header)
    _check_tensors(layout)
    return layout


def parse_document(raw: object, path: str) -> Document:
    """The document that was parsed from JSON. Raises InvalidExpertSet; `path` is what the message calls it."""
    try:
        document = Document.model_validate(raw)
    except ValidationError as error:
        first = first_problem(error.errors(include_url=False))
        where = ".".join(map(str, first["loc"])) or "the top"
        reason = f"{where} of its {CONFIG_FILE}: {in_words(first)}"
        raise InvalidExpertSet(path=path, reason=reason) from None
    _check_document(document, path)
    return document


def parse_layers(text: str, path: str = "deactivate") -> tuple[tuple[int, int | None], ...]:
    """The ranges, both ends included, that `text` lists: `8-` is from 8 on. Raises InvalidExpertSet about `path`."""
    ranges = []
    for part in text.replace(" ", "").split(","):
        if LAYERS.fullmatch(part) is None:
            raise InvalidExpertSet(
                path=path, reason=f"its deactivate {part!r} is not understood: expected {LAYERS_EXPECTED}"
            )
        first, dash, last = part.partition("-")
        if last and int(last) < int(first):
            raise InvalidExpertSet(
                path=path, reason=f"its deactivate {part!r} ends before it begins: expected {last}-{first}"
            )
        ranges.append((int(first), int(last) if last else None if dash else int(first)))
    return tuple(ranges)


def layer_of(module: str) -> int | None:
    """The number of the layer that a module belongs to: the first number in its path."""
    return next((int(part) for part in module.split(".") if part.isascii() and part.isdigit()), None)


def _check_document(document: Document, path: str) -> None:
    router, experts = document.router, document.experts
    names = [entry.name for entry in experts]
    routed = sum(not entry.always for entry in experts)
    for entry in experts:
        if entry.deactivate is not None:
            parse_layers(entry.deactivate, path)
    is_linear, is_table = router.kind == "linear", router.kind == "task-table"
    wrong = {
        "two experts have the same name": len(set(names)) < len(names),
        "no expert is left to be routed": routed == 0 and router.kind != "fixed",
        "a task-table needs tasks": is_table and not router.tasks,
        "only a task-table has tasks": not is_table and bool(router.tasks),
        "only a task-table combines factors": not is_table and router.combine == "factors",
        "with combine 'factors' no expert is added always": router.combine == "factors" and routed < len(experts),
        "only a linear router has the scope 'set'": not is_linear and router.scope == "set",
        "the scope 'set' needs the granularity 'request'": router.scope == "set" and router.granularity != "request",
        "the scope 'set' needs the unit 'expert'": router.scope == "set" and router.unit == "rank",
        "a fixed router or a task-table has no top_k": not router.routes_rows and router.top_k is not None,
        "a task's weights are not one for each routed expert": isinstance(router.tasks, dict)
        and any(len(weights) != routed for weights in router.tasks.values()),
        "a task is named twice": isinstance(router.tasks, list) and len(set(router.tasks)) < len(router.tasks),
        "a task's name has 1 to 96 characters and none of []+*": not all(TASK.fullmatch(task) for task in router.tasks),
    }
    for reason, holds in wrong.items():
        if holds:
            raise InvalidExpertSet(path=path, reason=reason)


def _check_tensors(layout: ExpertsLayout) -> None:
    router = layout.document.router
    inline = {entry.name for entry in layout.document.experts if entry.adapter is None}
    found: set[tuple[str, str, str]] = set()
    kinds: set[str] = set()
    for name, info in layout.tensors.items():
        if info.dtype not in FLOATS:
            _refuse(layout, f"the tensor {name!r} is {info.dtype}; accepted are {', '.join(FLOATS)}")
        if (match := INLINE.fullmatch(name)) is not None:
            if match["expert"] not in inline:
                _refuse(layout, f"the tensor {name!r} is of no expert without an adapter of its own")
            found.add((match["expert"], match["module"], match["side"]))
            _require_rank(layout, info, 2)
        elif router.kind == "linear" and (match := ROUTER.fullmatch(name)) is not None:
            kinds.add(match["side"])
            _require_rank(layout, info, 2 if match["side"] == "weight" else 1)
        elif isinstance(router.tasks, list) and TASKS.fullmatch(name) is not None:
            kinds.add("tasks")
            _require_rank(layout, info, 3)
        elif (match := SCALING.fullmatch(name)) is not None:
            _require_rank(layout, info, 1, *(() if match["module"] is None else (2,)))
        else:
            _refuse(layout, f"the tensor {name!r} has no meaning for a {router.kind} router")
    if router.kind == "linear" and "weight" not in kinds:
        _refuse(layout, f"a linear router needs its weights in {WEIGHTS_FILE}")
    if isinstance(router.tasks, list) and "tasks" not in kinds:
        _refuse(layout, f"a list of tasks needs their table in {WEIGHTS_FILE}")
    for expert, module, side in found:
        other = "AB".replace(side, "")
        if (expert, module, other) not in found:
            _refuse(layout, f"experts.{expert}.{module} has no lora_{other}")
    if missing := inline - {expert for expert, _, _ in found}:
        _refuse(layout, f"the expert {min(missing)!r} has neither an adapter nor factors in {WEIGHTS_FILE}")


def _require_rank(layout: ExpertsLayout, info: TensorInfo, *ranks: int) -> None:
    if len(info.shape) not in ranks or 0 in info.shape:
        expected = " or ".join(map(str, ranks))
        _refuse(layout, f"the tensor {info.name!r} is {list(info.shape)}; it has {expected} dimensions, none of size 0")


def _refuse(layout: ExpertsLayout, reason: str) -> None:
    raise InvalidExpertSet(path=str(layout.root), reason=reason)
