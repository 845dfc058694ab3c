"""Several forms of one module."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from graftwork.adapters.forms.form import Form


@dataclass(frozen=True, slots=True)
class Chain:
    """One form after the other."""

    forms: tuple[Form, ...]

    def before(self, x: Tensor) -> Tensor:
        """What all of them make of the input."""
        for form in self.forms:
            x = form.before(x)
        return x

    def after(self, x: Tensor, y: Tensor, low_rank_added: bool) -> Tensor:
        """What all of them make of the output."""
        for form in self.forms:
            y = form.after(x, y, low_rank_added)
        return y
