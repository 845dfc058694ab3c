"""What modules are told and answer in some forwards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(slots=True)
class Call:
    """One call of a module."""

    args: tuple[Any, ...]
    named: dict[str, Any]
    output: Any = None

    @property
    def told(self) -> frozenset[str]:
        """The names of what it was told and is not off."""
        return told(self.named)


def told(named: Mapping[str, Any]) -> frozenset[str]:
    """The names of what is neither missing nor off."""
    return frozenset(name for name, value in named.items() if value is not None and value is not False)


@contextmanager
def observed(
    modules: Iterable[nn.Module], change: Callable[[dict[str, Any]], dict[str, Any]] = lambda named: named
) -> Iterator[dict[nn.Module, list[Call]]]:
    """Every call of the modules within the block; what they are told by name is what `change` makes of it."""
    calls: dict[nn.Module, list[Call]] = {module: [] for module in modules}

    def before(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        calls[module].append(Call(args, change(named)))
        return args, calls[module][-1].named

    def after(module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        calls[module][-1].output = output

    with ExitStack() as hooks:
        for module in calls:
            for hook in (
                module.register_forward_pre_hook(before, with_kwargs=True),
                module.register_forward_hook(after),
            ):
                hooks.callback(hook.remove)
        yield calls
