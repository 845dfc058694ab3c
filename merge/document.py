"""docs/methods.md, made from the merge methods themselves: `python -m graftwork.merge.document [FILE]`."""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graftwork.merge.method import Method, methods
from graftwork.merge.recipe.sections import ModifierEntry

BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
SPACES = {
    "weight": "the models' weights",
    "delta": "the models' differences from the base",
    "adapter": "the low-rank factors of adapters",
}
MARKED = re.compile(r"(?P<label>mergekit|paper)\b[^:]{0,80}:\s|(?P<use>Use it)\b")
PARAMETER = re.compile(r"(?P<name>[a-z][a-z0-9_]*):\s+(?P<text>\S.*)")

INTRODUCTION = """# Merge methods

This page is made from the code by `graft methods --markdown`; a test fails when it is out of date.

A recipe names one of these methods as its `merge_method`. A parameter stands at a model, at a slice or for the whole
recipe, and the closest one holds. It may be a number; a list of numbers, which are spread over the layers and
interpolated between (tensors outside the layers take the first); or a list of `{filter: PART_OF_A_NAME, value: ...}`,
of which the first that fits holds. "x" is a model, "base" the base model, and a delta is x - base. All arithmetic is in
float32, with one rounding at the end, to the output's dtype.
"""

OF_RECIPES = (
    (
        "arithmetic",
        "mergekit computes in the dtype of its inputs, or in `dtype`, and so rounds each step to bfloat16 for "
        "most models. Here every step is in float32 and the result is rounded once; `dtype` is the output's.",
    ),
    (
        "random masks",
        "mergekit's differ in every run and with the order of its work. Here they are those of `seed`, whatever "
        "the slices, the threads and the machine.",
    ),
    (
        "equal magnitudes",
        "mergekit's unstable sort chooses among deltas of the same magnitude, which in bfloat16 are many. Here "
        "the first ones in the tensor are kept.",
    ),
    (
        "unknown keys and values",
        "mergekit passes over keys and parameters that it does not know, and takes a density of 20 or -1. Here "
        "they are errors that name the place.",
    ),
    (
        "a base that is not listed",
        "for methods without a use for it (linear, passthrough), mergekit adds the base_model to the models. Here"
        " it only lends its configuration and tokenizer. `compat: mergekit` adds it.",
    ),
    (
        "the configuration's donor",
        "without a base_model, mergekit takes any of the models, another in each run. Here it is the first.",
    ),
    (
        "named chat templates",
        "mergekit's `llama3` adds line breaks between turns, its `exaone` also inside them, and its `alpaca` has no "
        "line break before the response. Here they are as the models' authors describe them; mistral and chatml are "
        "the same.",
    ),
    (
        "names of models",
        "ORG/NAME is a reference to the registry, unless there is such a folder; a model of the Hub is written "
        "hf:ORG/NAME.",
    ),
    (
        "tensors",
        "mergekit writes the tensors that it knows for the architecture, and drops others without a word. Here "
        "every tensor of every model is merged, or the merge is refused; only buffers that are computed at loading, "
        "and the copy of a tied embedding as the head, are left out where some models lack them. Names with and "
        "without the prefix of a class with a head (`model.`, `bert.`) are one tensor's.",
    ),
    (
        "folders",
        "mergekit loads pickles, too. Here .safetensors alone are read, as transformers finds them, and what else lies "
        "in the folder (pickles, code, checkpoints of a trainer) is passed over; code is not copied.",
    ),
    (
        "models that only look alike",
        "mergekit merges models of other head counts or rope settings when the shapes fit. Here config.json is "
        "compared first.",
    ),
    (
        "model+adapter",
        "mergekit writes the merged model to disk in the model's dtype first, which rounds it. Here the adapter "
        "is added in float32 as the model is read, and nothing is written.",
    ),
    (
        "new tokens",
        "with `tokenizer: {source: union}`, mergekit numbers the tokens that it adds differently in every run. "
        "Here in the order of the models and of their own numbers. The rows are the same by token.",
    ),
    (
        "numbers of special tokens",
        "mergekit leaves bos_token_id and its kin as the donor has them, though the tokenizer may number them "
        "otherwise. Here they follow the tokenizer.",
    ),
    (
        "the last slice",
        "where the last slice has more sources than the first, mergekit leaves the additional ones out of the "
        "final norm and the head. Here all are merged.",
    ),
)
"""How recipes differ from mergekit's, whatever the method."""


@dataclass(frozen=True, slots=True)
class Documentation:
    """The parts of a docstring: text, what it says of each parameter, and its marked paragraphs."""

    text: tuple[str, ...]
    parameters: Mapping[str, str]
    mergekit: tuple[str, ...]
    paper: tuple[str, ...]
    use: tuple[str, ...]

    @classmethod
    def of(cls, docstring: str) -> Documentation:
        """The parts of a method's docstring, which is written as in merge/methods/ties.py."""
        parts: dict[str, list[str]] = {"text": [], "mergekit": [], "paper": [], "use": []}
        parameters: dict[str, str] = {}
        for lines in _paragraphs(docstring):
            if PARAMETER.fullmatch(lines[0]) and not MARKED.match(lines[0]):
                parameters |= _parameters(lines)
                continue
            paragraph = " ".join(line.strip() for line in lines)
            marked = MARKED.match(paragraph)
            kind = "text" if marked is None else "use" if marked["use"] else marked["label"]
            parts[kind].append(paragraph)
        return cls(
            tuple(parts["text"]), parameters, tuple(parts["mergekit"]), tuple(parts["paper"]), tuple(parts["use"])
        )


def document() -> str:
    """The whole page."""
    known = methods()
    lines = [INTRODUCTION, "| method | works on | models | summary |", "|---|---|---|---|"]
    for method in known.values():
        link = f"[{method.name}](#{method.name})"
        lines.append(f"| {link} | {SPACES[method.space]} | {_models(method)} | {_cell(method.summary)} |")
    lines += [
        "",
        "See also [modifiers](#modifiers) and [differences from mergekit](#differences-from-mergekit).",
    ]
    for method in known.values():
        lines += ["", *_section(method)]
    lines += ["", *_modifiers(), "", *_differences(known)]
    return "\n".join(lines).rstrip() + "\n"


def accepts(schema: Mapping[str, Any]) -> str:
    """A JSON schema in a few words: `number, above 0, at most 1`."""
    if "enum" in schema:
        return " or ".join(json.dumps(value) for value in schema["enum"])
    if "const" in schema:
        return json.dumps(schema["const"])
    if "anyOf" in schema:
        return " or ".join(accepts(option) for option in schema["anyOf"])
    bounds = [f"{words} {schema[key]:g}" for key, words in BOUNDS.items() if key in schema]
    return ", ".join([schema.get("type", "anything"), *bounds])


def _section(method: Method) -> Iterator[str]:
    told = Documentation.of(method.description)
    yield f"## {method.name}"
    yield ""
    base = "a base_model is needed" if method.needs_base else "a base_model may be given" if method.takes_base else ""
    yield f"Works on {SPACES[method.space]}: {_models(method)}{'; ' + base if base else ''}. Source: <{method.cites}>."
    for paragraph in told.text:
        yield from ("", paragraph)
    if method.parameters:
        yield from ("", "| parameter | accepts | default | set | meaning |", "|---|---|---|---|---|")
    for name, parameter in method.parameters.items():
        schema = parameter.schema()
        default = "required" if parameter.required else f"`{json.dumps(schema['default'])}`"
        where = "per model or for all" if parameter.per_model else "for all"
        meaning = _cell(told.parameters.get(name, ""))
        yield f"| `{name}` | {_cell(accepts(schema))} | {default} | {where} | {meaning} |"
    for title, paragraphs in (("mergekit", told.mergekit), ("Paper", told.paper), ("When", told.use)):
        for paragraph in paragraphs:
            yield from ("", f"**{title}.** {_unmarked(paragraph)}")


def _modifiers() -> Iterator[str]:
    yield "## Modifiers"
    yield ""
    yield "`modifiers:` is a list of changes that are made to the merged delta before it is added to the base."
    for name, field in ModifierEntry.model_fields.items():
        kind = next((part for part in _parts(field.annotation) if hasattr(part, "model_fields")), None)
        if kind is None:
            continue
        yield from ("", f"### {name}", "", inspect.cleandoc(kind.__doc__ or ""), "")
        yield from ("| parameter | accepts | default |", "|---|---|---|")
        schema = kind.model_json_schema()
        for parameter, described in schema["properties"].items():
            required = parameter in schema.get("required", ())
            default = "required" if required else f"`{json.dumps(described.get('default'))}`"
            yield f"| `{parameter}` | {_cell(accepts(described))} | {default} |"


def _differences(known: Mapping[str, Method]) -> Iterator[str]:
    yield "## Differences from mergekit"
    yield ""
    yield "The same recipe gives what mergekit 0.1.5 gives when it computes in float32, but for what is listed here;"
    yield "`python -m benchmarks.agreement` measures it. With `compat: mergekit` in the recipe, the methods marked"
    yield "(compat) do as mergekit does, so far as mergekit does the same in every run."
    yield ""
    for what, difference in OF_RECIPES:
        yield f"- {what}: {difference}"
    for method in known.values():
        for paragraph in Documentation.of(method.description).mergekit:
            mark = " (compat)" if method.has_quirks else ""
            yield f"- [{method.name}](#{method.name}){mark}: {_unmarked(paragraph)}"


def _paragraphs(docstring: str) -> Iterator[list[str]]:
    """Lines that belong together: up to a blank line, or to one that begins a marked paragraph."""
    lines: list[str] = []
    for line in [*inspect.cleandoc(docstring).splitlines(), ""]:
        if lines and (not line.strip() or MARKED.match(line)):
            yield lines
            lines = []
        if line.strip():
            lines.append(line)


def _parameters(lines: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    last = ""
    for line in lines:
        match = PARAMETER.fullmatch(line)
        if match is not None:
            last = match["name"]
            found[last] = match["text"]
        else:
            found[last] += " " + line.strip()
    return found


def _parts(annotation: Any) -> Sequence[Any]:
    return (annotation, *getattr(annotation, "__args__", ()))


def _models(method: Method) -> str:
    least, most = method.models
    if most is None:
        return f"{least} or more"
    return str(least) if least == most else f"{least} to {most}"


def _unmarked(paragraph: str) -> str:
    match = MARKED.match(paragraph)
    if match is None or match["use"] or not match[0].startswith(f"{match['label']}:"):
        return paragraph
    return paragraph[match.end() :]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main(arguments: Sequence[str]) -> None:
    """Write the page to the file that is named, or print it."""
    if arguments:
        Path(arguments[0]).write_text(document(), encoding="utf-8")
    else:
        sys.stdout.write(document())


if __name__ == "__main__":
    main(sys.argv[1:])
