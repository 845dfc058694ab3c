"""What a module does for the rows of one adapter beside the shared low-rank kernels."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Form(Protocol):
    """One module's change under one adapter. It sees the rows of that adapter alone, and never changes."""

    def before(self, x: Tensor) -> Tensor:
        """The input that the module gets instead of `x` [rows, in] ([rows] ids of an embedding). Not in place."""

    def after(self, x: Tensor, y: Tensor, low_rank_added: bool) -> Tensor:
        """The output that replaces `y` [rows, out]. Not in place.

        x:              what the module computed with, after `before`
        low_rank_added: whether `y` has the adapter's low-rank change in it, or has none to have
        """


class Passing:
    """A form that leaves everything as it is; forms say only what differs."""

    __slots__ = ()

    def before(self, x: Tensor) -> Tensor:
        """The input itself."""
        return x

    def after(self, x: Tensor, y: Tensor, low_rank_added: bool) -> Tensor:
        """The output itself."""
        return y
