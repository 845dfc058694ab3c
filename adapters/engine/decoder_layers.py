"""How the layers of a loaded decoder compute on a CPU: each in one native call, where nothing looks into it.

A layer by its parts is a dozen native calls and as many of torch. Between any two the interpreter runs with caches that
weights have passed through, and waits for whoever else wants it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from graftwork.adapters.attachment.gated import GatedForward
from graftwork.adapters.attachment.linears import NativeLinear, Planned, is_computed_at_once
from graftwork.adapters.attachment.norms import NativeNorm
from graftwork.adapters.attachment.watch import Watch
from graftwork.adapters.engine.cache import CacheView
from graftwork.adapters.engine.observed import Call, observed, told
from graftwork.kernels.dispatch import native_module, native_view

NORMS = ("input_layernorm", "post_attention_layernorm")
PARTS = {*NORMS, "self_attn", "mlp"}
"""What models call the layer's modules; a layer of others is something else."""
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
HEAD_NORMS = ("q_norm", "k_norm")


def take_over_decoder_layers(model: nn.Module, compute: Callable[[], object]) -> int:
    """Let every layer of `model` that is one of Llama's kind be computed in one native call; how many are now.

    `compute` runs the model over a few rows. Which layers are taken over is found out by what they are told and what
    they answer there: the native call has to give the same bits. It needs the norms, linear layers and the feed-forward
    layer to be taken over themselves. Where hooks look into a layer, where one of its weights was replaced, and with
    gradients, it computes by its parts.
    """
    with observed((module for module in model.modules() if _has_parts(module)), _noting) as calls:
        compute()
    forwards = {module: _forward(module, of_module) for module, of_module in calls.items()}
    for module, forward in forwards.items():
        if forward is not None:
            module.forward = forward
    return sum(forward is not None for forward in forwards.values())


@dataclass(frozen=True, slots=True)
class Attention:
    """What a layer asks of attention."""

    layer: int
    scale: float
    window: int | None


class DecoderForward:
    """The forward of one layer of a decoder."""

    def __init__(self, module: Any, attention: Attention, names: frozenset[str]) -> None:
        """`names`: of what it is told besides its rows. Raises ValueError for parts that do not fit each other."""
        inner = module.self_attn
        self._plainly, self._layer, self._names = module.forward, attention.layer, names
        norms = [getattr(module, name).forward for name in NORMS]
        norms += [getattr(inner, name).forward if hasattr(inner, name) else None for name in HEAD_NORMS]
        projections: list[NativeLinear] = [getattr(inner, name).forward for name in PROJECTIONS]
        self._linears = (*projections, *module.mlp.forward.projections)
        self.dtype = projections[0].dtype
        self._watch = Watch(part for part in module.modules() if part is not module)
        before, between, of_queries, of_keys = (
            None if norm is None else (native_view(norm.weight.detach()), norm.eps) for norm in norms
        )
        native: Any = native_module()
        self.native = native.DecoderLayer(
            before,
            *(each.layer for each in projections),
            of_queries,
            of_keys,
            between,
            module.mlp.forward.layers,
            attention.scale,
            attention.window or 0,
        )

    def __call__(self, hidden_states: Tensor, *args: Any, **named: Any) -> Any:
        """The layer's output, as `hidden_states`."""
        if not args and self.is_plain(hidden_states, named):
            y = self.at_once(hidden_states, named)
            if y is not None:
                return y
        return self._plainly(hidden_states, *args, **named)

    def is_plain(self, x: Tensor, named: Mapping[str, Any]) -> bool:
        """Whether the layer is what it was, and told what it was told, when it was taken over."""
        return (
            told(named) == self._names
            and isinstance(named.get("cache_view"), CacheView)
            and are_turns(named.get("position_embeddings"), x)
            and is_computed_at_once(x, self.dtype, self._watch)
        )

    def at_once(self, x: Tensor, named: Mapping[str, Any]) -> Tensor | None:
        """[1, rows, hidden] of as much; None where the adapters of the step do not let it."""
        view: CacheView = named["cache_view"]
        added, cached = self.added(x.shape[1]), self.cached(view)
        if added is None or cached is None:
            return None
        x = x.contiguous()
        y = torch.empty_like(x)
        step = view.native_step(*named["position_embeddings"])
        self.native.compute(y.data_ptr(), x.data_ptr(), step, cached, added)
        return y

    def added(self, rows: int) -> Sequence[Planned] | None:
        """What the step's adapters add to each linear layer; None where a native call cannot add it."""
        planned = [linear.planned(rows) for linear in self._linears]
        return None if None in planned else planned

    def cached(self, view: CacheView) -> tuple[Any, Any] | None:
        """Its keys and values."""
        return view.cached(self._layer)


def are_turns(turns: object, x: Tensor) -> bool:
    """Whether these are the rotary embeddings of rows x [1, rows, hidden]: cos and sin, [1, rows, width]."""
    if not isinstance(turns, tuple) or x.dim() != 3 or len(x) != 1:
        return False
    return all(each.dtype == x.dtype and each.shape[:2] == x.shape[:2] and each.is_contiguous() for each in turns)


@dataclass(slots=True)
class _Noting:
    """A view of the cache that notes what is asked of it."""

    view: CacheView
    asked: list[Attention] = field(default_factory=list)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None) -> Tensor:
        self.asked.append(Attention(layer, scale, window))
        return self.view.attend(layer, query, key, value, scale, window)


def _noting(named: dict[str, Any]) -> dict[str, Any]:
    view = named.get("cache_view")
    return {**named, "cache_view": _Noting(view)} if isinstance(view, CacheView) else named


def _forward(module: nn.Module, calls: Sequence[Call]) -> DecoderForward | None:
    """What answered these calls with the same bits; None where nothing does."""
    views = [call.named.get("cache_view") for call in calls]
    asked = [tuple(view.asked) for view in views if isinstance(view, _Noting)]
    names = {call.told for call in calls}
    if len(asked) != len(calls) or len(set(asked)) != 1 or len(asked[0]) != 1 or len(names) != 1:
        return None
    try:
        forward = DecoderForward(module, asked[0][0], names.pop())
        return forward if all(_is_same(forward, call) for call in calls) else None
    except ValueError:  # its parts do not fit each other
        return None


@torch.inference_mode()
def _is_same(forward: DecoderForward, call: Call) -> bool:
    if len(call.args) != 1 or not isinstance(call.args[0], Tensor) or not isinstance(call.output, Tensor):
        return False
    named = {**call.named, "cache_view": call.named["cache_view"].view}
    made = forward.at_once(call.args[0], named) if forward.is_plain(call.args[0], named) else None
    return made is not None and torch.equal(made, call.output)


def _has_parts(module: nn.Module) -> bool:
    """Whether a module is made of what the native call computes, all of it taken over."""
    if {name for name, _ in module.named_children()} != PARTS or "forward" in vars(module):
        return False
    parts: Any = module
    inner = parts.self_attn
    names = {name for name, _ in inner.named_children()}
    if names not in ({*PROJECTIONS}, {*PROJECTIONS, *HEAD_NORMS}):
        return False
    norms = [getattr(parts, name) for name in NORMS] + [getattr(inner, name) for name in HEAD_NORMS if name in names]
    linears = [getattr(inner, name) for name in PROJECTIONS]
    return (
        all(isinstance(vars(norm).get("forward"), NativeNorm) for norm in norms)
        and all(isinstance(vars(linear).get("forward"), NativeLinear) for linear in linears)
        and isinstance(vars(parts.mlp).get("forward"), GatedForward)
        and bool(parts.mlp.forward.projections)
    )
