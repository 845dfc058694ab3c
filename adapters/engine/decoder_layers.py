"""How the layers of a loaded decoder compute on a CPU: each in one native call, where nothing looks into it.

A layer by its parts is a dozen native calls and as many of torch. Between any two the interpreter runs with caches that
weights have passed through, and waits for whoever else wants it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from graftwork.adapters.attachment.gated import GatedForward
from graftwork.adapters.attachment.linears import NativeLinear, is_computed_at_once
from graftwork.adapters.attachment.norms import NativeNorm
from graftwork.adapters.engine.cache import CacheView
from graftwork.kernels.dispatch import native_module, native_view

NORMS = ("input_layernorm", "post_attention_layernorm")
PARTS = {*NORMS, "self_attn", "mlp"}
"""What models call the layer's modules; a layer of others is something else."""
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
HEAD_NORMS = ("q_norm", "k_norm")


def take_over_decoder_layers(model: nn.Module, compute: Callable[[], object]) -> int:
    """Let every layer of `model` that is one of Llama's kind be computed in one native call; how many are now.

    `compute` runs the model over a few rows. Which layers are taken over is found out by what they are given and what
    they answer there: the native call has to give the same bits. It needs the norms, linear layers and the feed-forward
    layer to be taken over themselves. Where hooks look into a layer, where one of its weights was replaced, and with
    gradients, it computes by its parts.
    """
    seen = {module: _Seen(module) for module in model.modules() if _has_parts(module)}
    try:
        compute()
    finally:
        for each in seen.values():
            each.look_away()
    taken = 0
    for module, each in seen.items():
        forward = each.forward()
        if forward is not None:
            module.forward = forward
            taken += 1
    return taken


class DecoderForward:
    """The forward of one layer of a decoder."""

    def __init__(self, module: Any, attention: Attention, named: frozenset[str]) -> None:
        """`named`: what it is told besides its rows."""
        inner = module.self_attn
        self._plainly, self._attention, self._named = module.forward, attention, named
        norms = [getattr(module, name).forward for name in NORMS]
        of_heads = [getattr(inner, name).forward if hasattr(inner, name) else None for name in HEAD_NORMS]
        projections = [getattr(inner, name).forward for name in PROJECTIONS]
        self._linears = (*projections, *module.mlp.forward.projections)
        self._norms = [norm for norm in (*norms, *of_heads) if norm is not None]
        known = {module, *(each.module for each in (*self._linears, *self._norms))}
        self._others = [part for part in module.modules() if part not in known]
        native: Any = native_module()
        before, between, of_queries, of_keys = (
            None if norm is None else (norm.weight, norm.eps) for norm in (*norms, *of_heads)
        )
        self._native = native.DecoderLayer(
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
        if not args and self._is_plain(hidden_states, named):
            y = self.at_once(hidden_states, named)
            if y is not None:
                return y
        return self._plainly(hidden_states, *args, **named)

    def at_once(self, x: Tensor, named: Mapping[str, Any]) -> Tensor | None:
        """[1, rows, hidden] of as much; None where the adapters of the step do not let it."""
        kept = named["cache_view"].native(self._attention.layer)
        planned = [linear.planned(x.shape[1]) for linear in self._linears]
        if kept is None or None in planned:
            return None
        x = x.contiguous()
        y = torch.empty_like(x)
        turns = [native_view(each, each.shape[1:]) for each in named["position_embeddings"]]
        self._native.compute(y.data_ptr(), x.data_ptr(), *turns, *kept, planned)
        return y

    def _is_plain(self, x: Tensor, named: Mapping[str, Any]) -> bool:
        """Whether the layer is what it was, and told what it was told, when it was taken over."""
        turns = named.get("position_embeddings")
        return (
            x.dim() == 3
            and len(x) == 1
            and _told(named) == self._named
            and isinstance(named.get("cache_view"), CacheView)
            and isinstance(turns, tuple)
            and all(each.dtype == x.dtype and each.shape[:2] == x.shape[:2] and each.is_contiguous() for each in turns)
            and is_computed_at_once(x, self._linears)
            and all(norm.is_bare for norm in self._norms)
            and not any(part._forward_hooks or part._forward_pre_hooks for part in self._others)
        )


@dataclass(frozen=True, slots=True)
class Attention:
    """What a layer asks of attention."""

    layer: int
    scale: float
    window: int | None


class _Noting:
    """A view of the cache that notes what is asked of it."""

    def __init__(self, view: CacheView) -> None:
        self.view = view
        self.asked: list[Attention] = []

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None) -> Tensor:
        self.asked.append(Attention(layer, scale, window))
        return self.view.attend(layer, query, key, value, scale, window)


@dataclass(slots=True)
class _Call:
    given: Tensor
    named: dict[str, Any]
    noting: _Noting
    output: object = None


class _Seen:
    """The calls of one layer."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._calls: list[_Call] = []
        self._hooks = (
            module.register_forward_pre_hook(self._before, with_kwargs=True),
            module.register_forward_hook(self._after),
        )

    def look_away(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def forward(self) -> DecoderForward | None:
        """What computes the same in one call; None where nothing does."""
        attentions = {attention for call in self._calls for attention in call.noting.asked}
        told = {_told(call.named) for call in self._calls}
        if len(attentions) != 1 or len(told) != 1 or any(len(call.noting.asked) != 1 for call in self._calls):
            return None
        try:
            forward = DecoderForward(self._module, attentions.pop(), told.pop())
        except ValueError:  # its parts do not fit each other
            return None
        same = all(_is_same(forward, call) for call in self._calls)
        return forward if same else None

    def _before(self, module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        view = named.get("cache_view")
        if len(args) != 1 or not isinstance(args[0], Tensor) or not isinstance(view, CacheView):
            return None
        self._calls.append(_Call(args[0].clone(), named, _Noting(view)))
        return args, {**named, "cache_view": self._calls[-1].noting}

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        if self._calls:
            self._calls[-1].output = output


@torch.inference_mode()
def _is_same(forward: DecoderForward, call: _Call) -> bool:
    if not isinstance(call.output, Tensor) or not forward._is_plain(call.given, call.named):
        return False
    made = forward.at_once(call.given, call.named)
    return made is not None and torch.equal(made, call.output)


def _told(named: Mapping[str, Any]) -> frozenset[str]:
    """The names of what is neither missing nor off."""
    return frozenset(name for name, value in named.items() if value is not None and value is not False)


def _has_parts(module: nn.Module) -> bool:
    """Whether a module is made of what the native call computes, all of it taken over."""
    if {name for name, _ in module.named_children()} != PARTS or "forward" in vars(module):
        return False
    parts: Any = module
    inner = parts.self_attn
    names = {name for name, _ in inner.named_children()}
    if not {*PROJECTIONS} <= names <= {*PROJECTIONS, *HEAD_NORMS} or len(names) == 5:
        return False
    norms = [getattr(parts, name) for name in NORMS] + [getattr(inner, name) for name in HEAD_NORMS if name in names]
    linears = [getattr(inner, name) for name in PROJECTIONS]
    return (
        all(isinstance(vars(norm).get("forward"), NativeNorm) for norm in norms)
        and all(isinstance(vars(linear).get("forward"), NativeLinear) for linear in linears)
        and isinstance(vars(parts.mlp).get("forward"), GatedForward)
        and bool(parts.mlp.forward.projections)
    )
