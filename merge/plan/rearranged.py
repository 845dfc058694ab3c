"""A model read with its units in another order, and with places for units that it does not share with another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.errors import InvalidRecipe, InvalidSetting
from graftwork.kernels.dtypes import numpy_dtype
from graftwork.merge.models.permute.architectures import architecture_of, groups_of
from graftwork.merge.models.permute.matching import Matched, Matching
from graftwork.merge.models.permute.permutation import Group, Member, Order
from graftwork.merge.models.readers import Overlay, Reader
from graftwork.merge.plan.inputs import Inputs
from graftwork.merge.recipe.recipe import Recipe
from graftwork.registry.formats.checkpoint import CheckpointLayout, Located
from graftwork.registry.formats.safetensors import DTYPE_BYTES
from graftwork.settings import Settings

NOTHING = -1
"""In an order: a place that this model leaves at zero."""
ONE_VALUE = ("ratio", "heads", "residual", "sweeps")


@dataclass(frozen=True, slots=True)
class Places:
    """What is at each place of one axis: a place of the model's own, or NOTHING; `doubled` says which are doubled."""

    order: Order
    doubled: NDArray[np.bool_] | None = None


@dataclass(slots=True)
class RearrangedModel(Overlay):
    """A reader of `inner` with its units in the order of the reference, as they are read.

    apart:   for each group the number of units that are not averaged (PLeaS); the places are then those of the averaged
             units, those of the first model's own and those of the second's, each in the order of the first
    first:   whether this is the first model, whose averaged units stay in their order
    """

    inner: Reader
    matching: Matching
    layout: CheckpointLayout
    groups: Mapping[str, tuple[tuple[Group, Member], ...]]
    apart: Mapping[str, int]
    first: bool
    changes: Mapping[str, int]
    """What the units apart change in config.json."""
    _places: dict[str, dict[int, Places]] = field(default_factory=dict)

    def read(self, tensor: Located, start: int, into: memoryview) -> None:
        """Fill `into` from the tensor's byte `start` on: whole rows are read, each where it lies."""
        name = tensor.info.name
        if name not in self.groups:
            self.inner.read(self.inner.layout.tensors[name], start, into)
            return
        kind: Any = numpy_dtype(tensor.info.dtype)
        out = np.frombuffer(into, kind)
        located = self.inner.layout.tensors[name]
        places = self._places_of(name)
        rows, columns = (places.get(0), places.get(1)) if len(tensor.info.shape) == 2 else (None, places.get(0))
        width, stored_width = tensor.info.shape[-1], located.info.shape[-1]
        first, done = start // out.itemsize, 0
        line = np.empty(stored_width, kind)
        while done < out.size:
            row, column = divmod(first + done, width)
            count = min(width - column, out.size - done)
            source = row if rows is None else int(rows.order[row])
            if source == NOTHING:
                out[done : done + count] = 0
            else:
                self.inner.read(located, source * stored_width * out.itemsize, line.view(np.uint8).data)
                piece = line if columns is None else _taken(line, columns)
                double = rows is not None and rows.doubled is not None and bool(rows.doubled[row])
                part = piece[column : column + count]
                out[done : done + count] = part + part if double else part
            done += count

    def _places_of(self, tensor: str) -> dict[int, Places]:
        """By axis; units apart that the model itself makes are doubled, since they are halved when averaged."""
        if tensor not in self._places:
            matched = self.matching.for_tensor(tensor)
            found: dict[int, Places] = {}
            for group, member in self.groups[tensor]:
                own = None if matched is None or self.first else matched.orders[tensor, member.axis]
                if own is None:
                    own = np.arange(self.inner.layout.tensors[tensor].info.shape[member.axis])
                count = self.apart.get(group.name, 0)
                if matched is None or count == 0:
                    found.setdefault(member.axis, Places(own))
                else:
                    found[member.axis] = self._split(own, matched, group, member, count)
            self._places[tensor] = found
        return self._places[tensor]

    def _split(self, own: Order, matched: Matched, group: Group, member: Member, count: int) -> Places:
        """The `count` units least alike apart, equal ones by lowest place."""
        apart = np.sort(np.argsort(matched.alike[group.name], kind="stable")[:count])
        averaged = np.setdiff1d(np.arange(group.units), apart)
        nothing = np.full(count, NOTHING)
        mine = own[apart]
        order = np.concatenate([own[averaged], *((mine, nothing) if self.first else (nothing, mine))])
        if member.consumes:
            return Places(order)
        return Places(order, np.arange(len(order)) >= len(averaged))


def _taken(line: NDArray[Any], places: Places) -> NDArray[Any]:
    taken = line[np.maximum(places.order, 0)]
    taken[places.order == NOTHING] = 0
    if places.doubled is not None:
        taken[places.doubled] += taken[places.doubled]
    return taken


def matched_readers(readers: Sequence[Reader], inputs: Inputs, recipe: Recipe, settings: Settings) -> list[Reader]:
    """The models of a merge by weight matching: all but the first with their units in the first one's order.

    Raises InvalidRecipe for models whose units are not known and for a ratio that has no meaning for them,
    InvalidCheckpoint, InvalidSetting for a memory limit that does not hold what is matched at once.
    """
    if recipe.slices:
        raise InvalidRecipe(where="slices", reason=f"{recipe.merge_method} matches whole models; name them in models")
    for name in ONE_VALUE:
        if isinstance(recipe.parameters.get(name), list):
            raise InvalidRecipe(where=f"parameters.{name}", reason="it is one value for the whole model")
    method = inputs.sections[0].binding.at("", 1.0)
    reference = readers[0]
    groups = groups_of(reference.layout, reference.label, heads=method.heads, residual=method.residual)
    apart = {group.name: int(method.ratio * group.units) for group in groups if group.grows}
    if method.ratio > 0 and len(readers) != 2:
        raise InvalidRecipe(
            where="parameters.ratio", reason=f"units of 2 models can be apart; there are {len(readers)}"
        )
    if method.ratio > 0 and len(set(method.weight)) > 1:
        raise InvalidRecipe(where="parameters.ratio", reason="units can be apart only where the weights are equal")
    matchings = [Matching(reference, other, groups, method.sweeps, recipe.seed) for other in readers[1:]]
    for matching in matchings:
        if matching.working_bytes > settings.memory:
            expected = f"at least {matching.working_bytes} bytes, for what is matched at once"
            raise InvalidSetting(name="memory", value=settings.memory, expected=expected)
    if not any(apart.values()):
        apart = {}
    views: list[Reader] = [
        _view(other, matching, apart, first=False) for other, matching in zip(readers[1:], matchings, strict=True)
    ]
    return [_view(reference, matchings[0], apart, first=True) if apart else reference, *views]


def _view(inner: Reader, matching: Matching, apart: Mapping[str, int], *, first: bool) -> RearrangedModel:
    by_tensor: dict[str, list[tuple[Group, Member]]] = {}
    for group in matching.groups:
        for member in group.members:
            by_tensor.setdefault(member.tensor, []).append((group, member))
    tensors = dict(inner.layout.tensors)
    for name, members in by_tensor.items():
        for group, member in members:
            if count := apart.get(group.name, 0):
                tensors[name] = _wider(tensors[name], member.axis, count)
    changes = {}
    if apart:
        size = next(group.units + apart[group.name] for group in matching.groups if group.name in apart)
        changes = {architecture_of(inner.layout, inner.label).inner_size: size}
    layout = replace(inner.layout, tensors=tensors)
    groups = {name: tuple(members) for name, members in by_tensor.items()}
    return RearrangedModel(inner, matching, layout, groups, apart, first, changes)


def _wider(located: Located, axis: int, more: int) -> Located:
    shape = tuple(size + more if place == axis else size for place, size in enumerate(located.info.shape))
    info = replace(located.info, shape=shape)
    return replace(located, info=replace(info, end=info.begin + DTYPE_BYTES[info.dtype] * info.numel))
