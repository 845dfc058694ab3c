"""aTLAS: task vectors with learnt coefficients, one for each task vector and parameter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from graftwork.errors import InvalidRecipe
from graftwork.kernels.weighted_sum import weighted_sum
from graftwork.merge.method import LocalFile, Number, PerModel, merge_method
from graftwork.merge.recipe.coefficients import load_coefficients
from graftwork.merge.slices.slices import Array, Slice


@merge_method("atlas_apply", space="delta", cites="https://arxiv.org/abs/2407.02880")
@dataclass(frozen=True, slots=True)
class AtlasApply:
    """The base plus task vectors with given coefficients for every parameter: base + sum_i c_i (x_i - base).

    file:        a .safetensors or .json file of coefficients: under the name of each tensor one number for each model,
                 in the recipe's order
    coefficient: of each task vector, for the tensors that the file does not name; with filters or gradients it does
                 without a file. By default every tensor must be in the file, and without a file the coefficients are 0

    Coefficients are learnt elsewhere: the gradient for c_i of a tensor is the dot product of the loss's gradient for
    that tensor and x_i - base. With one coefficient for all it is task_arithmetic.

    paper: section 3, one coefficient for each task vector and parameter (block). The authors' code rounds task vectors
    to float16 and pairs coefficients with parameters by position, which buffers shift; here they go by name, in
    float32. Its random partition of blocks (aTLAS x K) has no form here.
    Use it to merge with coefficients that a search or a training run found.
    """

    file: LocalFile | None = None
    coefficient: PerModel[Number | None] = (None,)
    models: ClassVar[tuple[int, int | None]] = (1, None)
    _loaded: Mapping[str, tuple[float, ...]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.file is not None:
            object.__setattr__(self, "_loaded", load_coefficients(self.file))

    def statistic(self) -> None:
        """Nothing needs to be known beforehand."""

    def check(self, tensor: str) -> None:
        """Raise ValueError where the tensor has no coefficients, or another number of them than there are models."""
        self.coefficients(tensor)

    def coefficients(self, tensor: str) -> tuple[float, ...]:
        """One coefficient a model. Raises ValueError as `check` does."""
        loaded = self._loaded.get(tensor)
        if loaded is None:
            if self.file is not None and None in self.coefficient:
                raise ValueError(f"{self.file} has no coefficients for it; coefficient: 0 keeps the base there")
            return tuple(0.0 if value is None else value for value in self.coefficient)
        if len(loaded) != len(self.coefficient):
            raise ValueError(
                f"{self.file} has {len(loaded)} coefficients for it, and there are {len(self.coefficient)} models"
            )
        return loaded

    def combine(self, out: Array, piece: Slice, measured: None, scale: float) -> None:
        """One weighted sum of differences."""
        try:
            coefficients = self.coefficients(piece.tensor)
        except ValueError as error:
            raise InvalidRecipe(where=f"the parameters for {piece.tensor}", reason=error) from None
        weighted_sum(out, piece.inputs, coefficients, piece.against_base(), scale)
