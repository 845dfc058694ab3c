"""Evaluators: commands that the operator has configured, by name."""

from __future__ import annotations

import importlib.util
import itertools
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from graftwork.errors import InvalidRequest, InvalidSetting
from graftwork.merge.sweep.evaluation import Command
from graftwork.merge.sweep.sweep import MODEL
from graftwork.settings import Settings

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
BASE = "{base}"
"""Stands for the folder of the model that an adapter belongs on; empty for a whole model."""
HARNESS = "lm-eval"
EXPECTED = "NAME=COMMAND {model}, several with semicolons between them; or NAME=lm-eval --tasks TASK"


@dataclass(frozen=True, slots=True)
class Evaluator:
    """A command with its arguments; no shell reads them."""

    name: str
    arguments: tuple[str, ...]
    seconds: float

    @property
    def is_harness(self) -> bool:
        """Whether it is lm-evaluation-harness, which has to be installed beside Graftwork."""
        return self.arguments[0] == HARNESS

    def command(self, base: Path | None = None, stopped: Callable[[], bool] = lambda: False) -> Command:
        """What measures a model's folder; `base` is what an adapter belongs on.

        Raises InvalidRequest when lm-eval is asked for and not installed.
        """
        arguments = self.arguments
        if self.is_harness:
            if shutil.which("lm_eval") is None and importlib.util.find_spec("lm_eval") is None:
                reason = f"{self.name} needs lm-eval, which is not installed: pip install 'graftwork[lm-eval]'"
                raise InvalidRequest(field="evaluator", reason=reason)
            module = "graftwork.merge.evaluation.harness"
            arguments = (sys.executable, "-m", module, MODEL, BASE, *self.arguments[1:])
        there = "" if base is None else str(base)
        return Command(tuple(part.replace(BASE, there) for part in arguments), self.seconds, stopped)


def evaluators(settings: Settings) -> Mapping[str, Evaluator]:
    """The setting `evaluators`. Raises InvalidSetting."""
    found: dict[str, Evaluator] = {}
    for words in _entries(settings.evaluators):
        name, _, program = words[0].partition("=")
        arguments = (program, *words[1:])
        complete = program == HARNESS or any(MODEL in argument for argument in words[1:])
        if NAME.fullmatch(name) is None or name in found or not program or not complete:
            raise InvalidSetting(name="evaluators", value=" ".join(words), expected=EXPECTED)
        found[name] = Evaluator(name, arguments, float(settings.evaluator_seconds))
    return found


def _entries(text: str) -> Iterator[list[str]]:
    """The words between semicolons, quoted as for a shell."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars=";")
    lexer.whitespace_split = True
    lexer.commenters = ""
    try:
        words = list(lexer)
    except ValueError:
        raise InvalidSetting(name="evaluators", value=text, expected=EXPECTED) from None
    for separates, entry in itertools.groupby(words, key=lambda word: set(word) == {";"}):
        if not separates:
            yield list(entry)


def evaluator_named(name: str, settings: Settings) -> Evaluator:
    """The evaluator of that name. Raises InvalidRequest naming the ones there are, and what `evaluators` raises."""
    known = evaluators(settings)
    if name not in known:
        reason = f"the operator has configured no {name!r} (setting evaluators); there is {', '.join(known) or 'none'}"
        raise InvalidRequest(field="evaluator", reason=reason)
    return known[name]
