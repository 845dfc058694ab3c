"""From an adapter's changes to the forms that serve what is not plain low rank."""

from __future__ import annotations

from collections.abc import Mapping

from graftwork.adapters.changes import BaseWeights, Change, Lowered
from graftwork.adapters.forms.chain import Chain
from graftwork.adapters.forms.embedding import EmbeddingLowRank
from graftwork.adapters.forms.form import Form
from graftwork.adapters.forms.inputs import InputScale
from graftwork.adapters.forms.lines import ColumnDeltas, RowDeltas
from graftwork.adapters.forms.outputs import BiasShift, OutputScale, WeightScale
from graftwork.adapters.forms.replaced import replaced


def of(lowered: Lowered, base: BaseWeights) -> Mapping[str, Form]:
    """The form of every module that needs one, by its path; its tensors are on the device of the base.

    A module with a low-rank change alone is not in it. Raises KeyError for a module that the base does not have.
    """
    return {
        name: forms[0] if len(forms) == 1 else Chain(tuple(forms))
        for name, change in lowered.changes.items()
        if (forms := _forms(change, name, base))
    }


def _forms(change: Change, name: str, base: BaseWeights) -> list[Form]:
    if change.is_plain:
        return []
    device = base.weight(name).device
    change = change.to(device)
    forms: list[Form] = []
    bias, new_bias = base.bias(name), change.bias
    if change.input_scale is not None:
        forms.append(InputScale(change.input_scale))
    if change.weight is not None:
        forms.append(replaced(base.module(name), change.weight, change.bias, change.low_rank))
        bias, new_bias = (bias if new_bias is None else new_bias), None
    if change.rows is not None:
        forms.append(RowDeltas(change.rows.indices, change.rows.block))
    if change.columns is not None:
        forms.append(ColumnDeltas(change.columns.indices, change.columns.block))
    if change.embedding is not None:
        scale = getattr(base.module(name), "embed_scale", None)
        forms.append(EmbeddingLowRank(change.embedding.rows, change.embedding.b, scale))
    if change.scale is not None and not change.scales_bias:
        forms.append(WeightScale(change.scale, bias, bias if new_bias is None else new_bias))
    else:
        if new_bias is not None:
            forms.append(BiasShift(new_bias if bias is None else new_bias - bias))
        if change.scale is not None:
            forms.append(OutputScale(change.scale))
    return forms
