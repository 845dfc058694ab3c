"""Whether anything was done to modules whose work a native call does."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn


class Watch:
    """Whether modules are what they were when it began. It keeps their parameters: no others come to lie there."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        modules = list(modules)
        self._hooks = [hooks for module in modules for hooks in (module._forward_pre_hooks, module._forward_hooks)]
        self._parameters = [(module._parameters, name) for module in modules for name in module._parameters]
        self._kept = [of[name] for of, name in self._parameters]
        self._addresses = self._now()

    @property
    def is_intact(self) -> bool:
        """Whether they have the parameters that they had."""
        return self._now() == self._addresses

    @property
    def is_bare(self) -> bool:
        """Whether calling them does nothing but what they do themselves, with the parameters that they had."""
        return not any(self._hooks) and self.is_intact

    def _now(self) -> list[int | None]:
        return [None if (found := of.get(name)) is None else found.data_ptr() for of, name in self._parameters]
