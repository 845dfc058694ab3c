"""Robust Weight Signatures: what training on corrupted data adds to a model, put on or taken off another one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from graftwork.kernels.weighted_sum import weighted_sum
from graftwork.merge.method import Number, PerModel, merge_method
from graftwork.merge.slices.slices import Array, Slice
from graftwork.merge.statistics.inner_products import InputProducts

Role = Literal["robust", "clean", "target"]


@merge_method("rws", space="weight", cites="https://arxiv.org/abs/2302.12480")
@dataclass(frozen=True, slots=True)
class Rws:
    """Patch a model with robustness: target + sum_k alpha_k * signature_k; a negative alpha takes the patch off again.

    role:  of each model: `clean` for the fine-tune on clean data (exactly one), `robust` for those on corrupted data
           (the default), `target` for the model that is patched (by default the clean one)
    alpha: the strength of each robust model's signature; a filter chooses its layers:
           alpha: [{filter: layers.0., value: 1}, {value: 0}]

    The signature of a tensor is d_k - (<d_k, a> / <a, a>) a, with d_k = robust_k - base and a = clean - base: what the
    robust model learnt beside the task itself. Where a is 0 the signature is d_k. The target may come from another
    base of the same shape. One weighted sum; with alpha 0 everywhere the result is the target to the bit. In 16 bits
    taking a patch off does not restore every bit: keep the target, or merge again from it.

    paper: the shallow layers alone are patched (the first 7 convolutions of VGG16): set alpha to 0 elsewhere. The
    authors' code multiplies by alpha twice, once before the projection; here it counts once. It also replaces the
    tensors of batch norms and downsampling by those of the robust models, which cannot be taken off; here they are
    tensors like all others: leave them out with a filter, or recompute the running statistics.
    Use it when a fine-tune should withstand a kind of noise for which robust models of the same base exist.
    """

    role: PerModel[Role] = ("robust",)
    alpha: PerModel[Number] = (1.0,)
    models: ClassVar[tuple[int, int | None]] = (2, None)
    needs_base: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.role.count("clean") != 1 or self.role.count("target") > 1 or "robust" not in self.role:
            given = ", ".join(self.role)
            raise ValueError(f"the roles are {given}; rws needs one clean, at least one robust and at most one target")

    def statistic(self) -> InputProducts:
        """The robust models' shares of the clean task vector."""
        return InputProducts()

    def combine(self, out: Array, piece: Slice, measured: NDArray[np.float64], scale: float) -> None:
        """A weighted sum of differences from the target."""
        target = self.role.index("target" if "target" in self.role else "clean")
        *weights, of_base = self.coefficients(measured)
        others = [position for position in range(len(weights)) if position != target]
        terms = [*(piece.inputs[position] for position in others), piece.against_base()]
        coefficients = [*(weights[position] for position in others), of_base]
        weighted_sum(out, terms, coefficients, piece.inputs[target], scale)

    def coefficients(self, products: NDArray[np.float64]) -> list[float]:
        """The weight of each model, and last of the base, in the sum of the signatures; together they are 0."""
        clean = self.role.index("clean")
        length = products[clean, clean]
        weights = [0.0] * len(self.role)
        for position, (role, alpha) in enumerate(zip(self.role, self.alpha, strict=True)):
            if role == "robust":
                weights[position] = alpha
                weights[clean] -= alpha * float(products[position, clean] / length) if length > 0 else 0.0
        return [*weights, -sum(weights)]
