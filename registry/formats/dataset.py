"""A dataset: one `.jsonl` file of examples, and `dataset.json`, which names the task and the fields.

    generation        prompt, answer (a text, or a list of accepted ones)
    multiple_choice   prompt, options (a list of texts), answer (the place of the right one from 0, or its text)
    text              text
    classification    text, label (a label's name or number), and text_pair where texts come in pairs

Without a `dataset.json` the fields have these names, and the task is the first whose fields the first line has.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from graftwork.errors import InvalidDataset, SourceNotFound, TooLarge
from graftwork.errors.wording import first_problem, in_words
from graftwork.registry.formats.config import check_configs, read_object
from graftwork.registry.formats.folder import list_files

CONFIG_FILE = "dataset.json"
SUFFIX = ".jsonl"
MAX_BYTES = 1_000_000_000
MAX_LINE_BYTES = 1_000_000
MAX_EXAMPLES = 1_000_000
MAX_OPTIONS = 100

Task = Literal["generation", "multiple_choice", "text", "classification"]
Example = Mapping[str, Any]
"""An example's values by the roles that the module's docstring lists."""


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_answer(value: Any) -> bool:
    return _is_text(value) or (isinstance(value, list) and bool(value) and all(map(_is_text, value)))


def _are_options(value: Any) -> bool:
    return isinstance(value, list) and 2 <= len(value) <= MAX_OPTIONS and all(map(_is_text, value)) and all(value)


def _is_label(value: Any) -> bool:
    return _is_text(value) or (isinstance(value, int) and not isinstance(value, bool))


Rule = tuple[Callable[[Any], bool], str]
TEXT: Rule = (_is_text, "a text")
TASKS: Mapping[str, Mapping[str, Rule]] = {
    "multiple_choice": {
        "prompt": TEXT,
        "options": (_are_options, f"a list of 2 to {MAX_OPTIONS} texts, none of them empty"),
        "answer": (_is_label, "the place of the right option, counted from 0, or its text"),
    },
    "generation": {"prompt": TEXT, "answer": (_is_answer, "a text or a list of texts")},
    "classification": {"text": TEXT, "label": (_is_label, "the name or the number of a label")},
    "text": {"text": TEXT},
}
"""What each task's fields must hold; where several tasks fit a line, the first one is meant."""
OPTIONAL: Mapping[str, Mapping[str, Rule]] = {"classification": {"text_pair": TEXT}}


class DatasetConfig(BaseModel):
    """The content of `dataset.json`. `fields` gives a role the name that it has in the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: Task
    fields: dict[str, str] = {}
    max_tokens: Annotated[int, Field(ge=1, le=100_000)] = 32
    """Tokens that an answer may have (generation)."""
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Texts that end an answer (generation)."""

    def field(self, role: str) -> str:
        """What the file calls a role."""
        return self.fields.get(role, role)


@dataclass(frozen=True, slots=True)
class DatasetLayout:
    """A dataset that was found to be in order."""

    root: Path
    files: tuple[str, ...]
    data: str
    """The file of the examples, relative to `root`."""
    config: DatasetConfig
    examples: int


def is_dataset(path: Path) -> bool:
    """Whether what is at `path` says that it is a dataset."""
    return path.suffix.lower() == SUFFIX or (path / CONFIG_FILE).is_file()


def read_dataset(path: Path, *, links_to: Path | None = None) -> DatasetLayout:
    """Check a `.jsonl` file, or a folder with one, line by line.

    `links_to`: see `list_files`. Raises InvalidDataset naming the line, TooLarge, UnsafeFile, SourceNotFound,
    InvalidCheckpoint for a `dataset.json` that is no JSON object.
    """
    files: tuple[str, ...]
    if path.is_file():
        root, files = path.parent, (path.name,)
    elif path.is_dir():
        root, files = path, list_files(path, links_to=links_to)
        check_configs(root, files)
    else:
        raise SourceNotFound(source=str(path), expected=f"a {SUFFIX} file or a folder with one")
    found = [name for name in files if name.lower().endswith(SUFFIX)]
    if len(found) != 1 or any(name.endswith(".safetensors") for name in files):
        reason = f"it has {len(found)} {SUFFIX} files" if len(found) != 1 else "it holds weights"
        raise InvalidDataset(path=path, reason=f"{reason}; expected one {SUFFIX} file, alone or beside {CONFIG_FILE}")
    data = root / found[0]
    if (size := data.stat().st_size) > MAX_BYTES:
        raise TooLarge(what=found[0], actual=f"{size} bytes", limit=f"{MAX_BYTES} bytes")
    config = _config(root, files, data)
    return DatasetLayout(root, files, found[0], config, sum(1 for _ in _examples(data, config)))


def read_examples(layout: DatasetLayout, limit: int | None = None) -> list[Example]:
    """The first `limit` examples (all, by default), as roles and values."""
    examples: list[Example] = []
    for example in _examples(layout.root / layout.data, layout.config):
        if len(examples) == limit:
            break
        examples.append(example)
    return examples


def _config(root: Path, files: tuple[str, ...], data: Path) -> DatasetConfig:
    if CONFIG_FILE in files:
        try:
            config = DatasetConfig.model_validate(read_object(root / CONFIG_FILE, CONFIG_FILE))
        except ValidationError as error:
            problem = first_problem(error.errors(include_url=False))
            where = ".".join(map(str, problem["loc"])) or "the top"
            raise InvalidDataset(path=CONFIG_FILE, reason=f"{where}: {in_words(problem)}") from None
        roles = {**TASKS[config.task], **OPTIONAL.get(config.task, {})}
        if unknown := set(config.fields) - set(roles):
            reason = f"fields: the task {config.task} has no {sorted(unknown)[0]!r}; it has {', '.join(roles)}"
            raise InvalidDataset(path=CONFIG_FILE, reason=reason)
        return config
    first = next(_objects(data), {})
    for task, rules in TASKS.items():
        if set(rules) <= set(first):
            return DatasetConfig.model_validate({"task": task})
    accepted = "; or ".join(f"{', '.join(rules)} ({task})" for task, rules in TASKS.items())
    reason = f"its first line has {', '.join(first) or 'nothing'}; without a {CONFIG_FILE} it must have {accepted}"
    raise InvalidDataset(path=data.name, reason=reason)


def _examples(data: Path, config: DatasetConfig) -> Iterator[Example]:
    required, optional = TASKS[config.task], OPTIONAL.get(config.task, {})
    for number, line in enumerate(_objects(data), start=1):
        example = {}
        for role, (accepts, expected) in {**required, **optional}.items():
            name = config.field(role)
            if name not in line and role in optional:
                continue
            if name not in line or not accepts(line[name]):
                reason = f"line {number}: {name!r} must be {expected}"
                raise InvalidDataset(path=data.name, reason=reason)
            example[role] = line[name]
        if config.task == "multiple_choice":
            example["answer"] = _place(example, data, number)
        yield example


def _place(example: Example, data: Path, number: int) -> int:
    """The place of the right option."""
    options, answer = example["options"], example["answer"]
    if isinstance(answer, str) and options.count(answer) == 1:
        return int(options.index(answer))
    if isinstance(answer, int) and 0 <= answer < len(options):
        return answer
    raise InvalidDataset(path=data.name, reason=f"line {number}: its answer {answer!r} is none of its options")


def _objects(data: Path) -> Iterator[Mapping[str, Any]]:
    number = 0
    with data.open("rb") as file:
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > MAX_LINE_BYTES:
                raise TooLarge(what=f"line {number} of {data.name}", actual="more", limit=f"{MAX_LINE_BYTES} bytes")
            if number > MAX_EXAMPLES:
                raise TooLarge(what=data.name, actual="more", limit=f"{MAX_EXAMPLES} lines")
            yield _object(line, data.name, number)
    if not number:
        raise InvalidDataset(path=data.name, reason="it is empty")


def _object(line: bytes, name: str, number: int) -> Mapping[str, Any]:
    try:
        value = json.loads(line.decode("utf-8"), parse_constant=_no_number)
    except UnicodeDecodeError:
        raise InvalidDataset(path=name, reason=f"line {number} is not UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise InvalidDataset(path=name, reason=f"line {number} is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise InvalidDataset(path=name, reason=f"line {number} is not a JSON object")
    return value


def _no_number(text: str) -> object:
    raise ValueError(f"{text} is no number of JSON")
