"""How a loaded decoder computes on a CPU between its embeddings and its last norm: in one native call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from graftwork.adapters.attachment.watch import Watch
from graftwork.adapters.engine.cache import CacheView
from graftwork.adapters.engine.decoder_layers import DecoderForward, are_turns, take_over_decoder_layers
from graftwork.adapters.engine.observed import Call, observed, told
from graftwork.kernels.dispatch import native_module

PARTS = {"embed_tokens", "layers", "norm", "rotary_emb"}
"""What models call the decoder's modules; a decoder of others is something else."""
OUTPUT = "last_hidden_state"


def take_over_decoder(model: nn.Module, compute: Callable[[], object]) -> int:
    """Let `model` be computed in as few native calls as it can; how many of its layers are taken over.

    The layers as `take_over_decoder_layers` has it, and where that takes over all of them, all at once: what lies
    around them is found out in the same way.
    """
    taken = take_over_decoder_layers(model, compute)
    with observed(module for module in model.modules() if _has_parts(module)) as calls:
        compute()
    for module, of_module in calls.items():
        forward = _forward(module, of_module)
        if forward is not None:
            module.forward = forward
    return taken


class StackForward:
    """The forward of a decoder without its head.

    Its embeddings, its last norm and what makes rotary embeddings are called as before; its layers are one native call
    where nothing looks into any of them, or else called one by one.
    """

    def __init__(self, module: Any, names: frozenset[str], kind: type) -> None:
        """`names`: of what it is told; `kind`: of its output."""
        self._plainly, self._module, self._names, self._kind = module.forward, module, names, kind
        self._layers: list[DecoderForward] = [layer.forward for layer in module.layers]
        self._watch = Watch(module.layers.modules())
        native: Any = native_module()
        self._native = native.DecoderLayers([layer.native for layer in self._layers])

    def __call__(self, *args: Any, **named: Any) -> Any:
        """The decoder's output."""
        hidden = self.at_once(named) if not args and told(named) == self._names else None
        return self._plainly(*args, **named) if hidden is None else self._kind(**{OUTPUT: hidden})

    def at_once(self, named: Mapping[str, Any]) -> Tensor | None:
        """Its last hidden states, [1, rows, hidden]; None where the layers have to be called one by one."""
        view = named.get("cache_view")
        if not isinstance(view, CacheView) or torch.is_grad_enabled() or not self._watch.is_bare:
            return None
        added = [layer.added(named["input_ids"].shape[1]) for layer in self._layers]
        cached = [layer.cached(view) for layer in self._layers]
        if None in added or None in cached:
            return None
        x = self._module.embed_tokens(named["input_ids"]).contiguous()
        turns = self._module.rotary_emb(x, named["position_ids"])
        if not are_turns(turns, x) or x.dtype != self._layers[0].dtype or not x.is_cpu:
            return None
        y = torch.empty_like(x)
        self._native.compute(y.data_ptr(), x.data_ptr(), view.native_step(*turns), cached, added)
        return self._module.norm(y)  # type: ignore[no-any-return]


def _forward(module: Any, calls: Sequence[Call]) -> StackForward | None:
    """What answered these calls with the same bits; None where nothing does."""
    names, kinds = {call.told for call in calls}, {type(call.output) for call in calls}
    if len(names) != 1 or len(kinds) != 1:
        return None
    forward = StackForward(module, names.pop(), kinds.pop())
    return forward if all(_is_same(forward, call) for call in calls) else None


@torch.inference_mode()
def _is_same(forward: StackForward, call: Call) -> bool:
    if call.args or not {"input_ids", "position_ids"} <= call.told or "inputs_embeds" in call.told:
        return False
    if not isinstance(call.output, dict) or told(call.output) != {OUTPUT}:
        return False
    made = forward.at_once(call.named)
    return made is not None and torch.equal(made, call.output[OUTPUT])


def _has_parts(module: nn.Module) -> bool:
    """Whether a module is made of what is called here, and all of its layers are taken over."""
    if {name for name, _ in module.named_children()} != PARTS or "forward" in vars(module):
        return False
    parts: Any = module
    return (
        len(parts.layers) > 0
        and all(isinstance(vars(layer).get("forward"), DecoderForward) for layer in parts.layers)
        and len({layer.forward.dtype for layer in parts.layers}) == 1
        and len(signature(parts.rotary_emb.forward).parameters) == 2
    )
