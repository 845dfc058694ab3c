"""Which modules PEFT adapts, by the names in a configuration: it passes over the tensors of others with a warning."""

from __future__ import annotations

import math
import re
import time
import warnings
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import NoReturn

import regex

from graftwork.registry.formats.adapters.config import LoraConfig
from graftwork.registry.formats.adapters.kinds import EMBEDDING_KINDS, PREFIX, PUBLISHED
from graftwork.registry.formats.adapters.layout import Part

CLASSIFIERS = ("classifier", "score")
"""What PEFT writes into modules_to_save of every adapter for classification, though a model has one of them."""
CLASSIFYING = ("SEQ_CLS", "TOKEN_CLS")
NAMED_AT_MOST = 3
HEADS = ("lm_head", "embed_out")
"""What architectures call the output head, which is no linear layer to PEFT's word for all of them."""
MAX_PATTERN = 4096
MAX_REPEATS = 10_000
"""The product of a pattern's counted repetitions, which are unrolled when it is compiled."""
SECONDS = 2.0
"""How long the patterns of one adapter may take over all of its modules."""
FIRST_NUMBER = r".*?\.[^.]*\.(?P<layer>\d+)\."


def check_targets(config: LoraConfig, parts: Mapping[str, Part], refuse: Callable[[str], NoReturn]) -> None:
    """Call `refuse` where PEFT would pass over a tensor of `parts`, with the tensor and the setting that says so."""
    raw = config.raw
    if config.format in PUBLISHED and raw.get("target_modules") is None:
        return
    implied = CLASSIFIERS if raw.get("task_type") in CLASSIFYING else ()
    targets = Targets(raw, (*config.modules_to_save, *implied), refuse)
    left_out: dict[str, list[str]] = {}
    for part in parts.values():
        setting = targets.left_out_by(part.module, embeds=part.kind in EMBEDDING_KINDS)
        adapted = [info.name for info in part.tensors.values()]
        for role, info in part.own.items():
            if role.startswith("base_layer."):
                adapted.append(info.name)
            elif setting is None and (part.tensors or not targets.is_all_linear):
                inner = f"{PREFIX}{part.module}.base_layer.{role}"
                refuse(f"PEFT would not load its {info.name!r}: where a module is adapted that is called {inner!r}")
        if setting is not None:
            left_out.setdefault(setting, []).extend(adapted)
    for setting, names in left_out.items():
        if names:
            first = ", ".join(map(repr, names[:NAMED_AT_MOST]))
            more = f" and {len(names) - NAMED_AT_MOST} more" if len(names) > NAMED_AT_MOST else ""
            refuse(
                f"PEFT would not load its {first}{more}, which its {setting} leaves out; change that, or leave them out"
            )


class Targets:
    """`target_modules`, and what narrows them (peft.tuners.tuners_utils.check_target_module_exists)."""

    def __init__(self, raw: Mapping[str, object], saved: tuple[str, ...], refuse: Callable[[str], NoReturn]) -> None:
        """saved: the modules_to_save that PEFT makes of `raw`; refuse: raises what says why an adapter is refused."""
        self.raw = raw
        self.saved = saved
        self.refuse = refuse
        self.deadline = time.monotonic() + SECONDS
        self.named = self._names("target_modules")
        self.whole, self.tails = frozenset(self.named or ()), tuple(f".{name}" for name in self.named or ())
        self.excluded = self._names("exclude_modules")
        self.layers = self._layers()
        patterns = self._names("layers_pattern") or ()
        self.patterns = (patterns,) if isinstance(patterns, str) else patterns
        if isinstance(self.named, str) and (self.layers is not None or self.patterns):
            refuse(f"its target_modules is the pattern {self.named!r}, with which layers_to_transform does not go")
        if self.patterns and self.layers is None:
            refuse(f"its layers_pattern is {raw['layers_pattern']!r} without layers_to_transform")

    @property
    def is_all_linear(self) -> bool:
        """Whether the word for every linear layer but the output head takes the place of names."""
        return isinstance(self.named, str) and self.named.lower() == "all-linear"

    def left_out_by(self, module: str, *, embeds: bool = False) -> str | None:
        """The setting by which PEFT does not adapt `module`, an embedding or not; None where PEFT does."""
        if self._excludes(module):
            return self._said("exclude_modules")
        if any(self._match("modules_to_save", rf"(^|.*\.){name}($|\..*)", module) for name in self.saved):
            return f"modules_to_save {list(self.saved)}"
        if self.is_all_linear:
            is_named = not embeds and module.rpartition(".")[2] not in HEADS
        elif isinstance(self.named, str):
            is_named = self._match("target_modules", self.named, module, whole=True) is not None
        else:
            is_named = module in self.whole or module.endswith(self.tails)
        if not is_named:
            return self._said("target_modules")
        if not self.layers or module in self.whole or self._layer_of(module) in self.layers:
            return None
        return self._said("layers_to_transform")

    def _excludes(self, module: str) -> bool:
        if isinstance(self.excluded, str):
            return self._match("exclude_modules", self.excluded, module, whole=True) is not None
        names = self.excluded or ()
        return module in names or module.endswith(tuple(f".{name}" for name in names))

    def _layer_of(self, module: str) -> int | None:
        """The first number in the module's path, or the one after a name in layers_pattern."""
        patterns = [rf"(?:^|.*?\.){name}\.(?P<layer>\d+)\." for name in self.patterns] or [FIRST_NUMBER]
        found = (self._match("layers_pattern", pattern, module) for pattern in patterns)
        return next((int(match["layer"]) for match in found if match), None)

    def _match(self, option: str, pattern: str, module: str, *, whole: bool = False) -> regex.Match[str] | None:
        compiled = _compiled(pattern)
        if compiled is None:
            self.refuse(f"its {self._said(option)} is not accepted: names, or a regular expression of moderate size")
        try:
            left = max(self.deadline - time.monotonic(), 0.001)
            return (compiled.fullmatch if whole else compiled.match)(module, timeout=left)
        except TimeoutError:
            self.refuse(f"its {self._said(option)} takes too long to match; accepted are names, or a simpler pattern")

    def _said(self, option: str) -> str:
        return f"{option} {str(self.raw.get(option))[:200]}"

    def _names(self, option: str) -> tuple[str, ...] | str | None:
        value = self.raw.get(option)
        if isinstance(value, str | None):
            return value or None
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            self.refuse(f"its {self._said(option)} is not accepted: a list of names, or a regular expression")
        return tuple(value)

    def _layers(self) -> tuple[int, ...] | None:
        value = self.raw.get("layers_to_transform")
        layers = tuple(value) if isinstance(value, list) else (value,)
        if value is not None and not all(type(layer) is int for layer in layers):
            self.refuse(f"its {self._said('layers_to_transform')} is not accepted: a whole number, or a list of them")
        return None if value is None else layers


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> regex.Pattern[str] | None:
    """`pattern` if Python's own engine knows it and it is small; `regex`, unlike that, can be told to stop."""
    repeats = math.prod(max(1, int(count)) for count in re.findall(r"[{,]\s*(\d{1,9})", pattern))
    if len(pattern) > MAX_PATTERN or repeats > MAX_REPEATS:
        return None
    try:
        with warnings.catch_warnings(action="ignore"):
            re.compile(pattern)
            return regex.compile(pattern)
    except (re.error, regex.error, OverflowError, RecursionError):
        return None
