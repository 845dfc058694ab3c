"""How the attention of a loaded model turns queries and keys on a CPU: by our kernel in place of ten calls of torch."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

from graftwork.kernels.dispatch import native_module, native_view
from graftwork.kernels.rotary_embedding import rotary_embedding

NAME = "apply_rotary_pos_emb"
"""What transformers calls, in the file of every model, the function that turns queries and keys."""

TAKEN = (torch.float32, torch.float16, torch.bfloat16)

Turn = Callable[..., tuple[Tensor, Tensor]]


def take_over_rotary(model: nn.Module) -> int:
    """Let every module of `model` that calls a rotary embedding as Llama's do so by `kernels.rotary_embedding`.

    Returns how many modules were taken over. Which ones can be is found out by the answers of the function that they
    call to a few random rows. They get a forward of the same code, which finds our function under the name of theirs,
    so that no other model notices. With gradients, for several sequences and where only a part of each head is turned,
    theirs is called.
    """
    weight = next(model.parameters()).detach()
    if weight.dtype not in TAKEN or rotary_embedding.choice(weight) != "native":
        return 0
    ours: dict[FunctionType, FunctionType | None] = {}
    taken = 0
    for module in model.modules():
        forward = type(module).forward
        if not isinstance(forward, FunctionType) or NAME not in forward.__code__.co_names or "forward" in vars(module):
            continue
        if forward not in ours:
            theirs = forward.__globals__.get(NAME)
            ours[forward] = _calling(forward, _turn(theirs)) if _is_rotary(theirs, weight.dtype) else None
        if (found := ours[forward]) is not None:
            module.forward = MethodType(found, module)
            taken += 1
    return taken


@torch.inference_mode()
def _is_rotary(function: object, dtype: torch.dtype) -> bool:
    if not isinstance(function, FunctionType) or function.__code__.co_varnames[:4] != ("q", "k", "cos", "sin"):
        return False
    if any(other.default is other.empty for other in list(signature(function).parameters.values())[4:]):
        return False
    generator = torch.Generator().manual_seed(0)
    shapes = ((1, 3, 5, 16), (1, 2, 5, 16), (1, 5, 16), (1, 5, 16))
    q, k, cos, sin = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    try:
        found = function(q, k, cos, sin)
    except RuntimeError:  # its cosines have another shape
        return False
    wanted: list[Any] = [rotary_embedding(x[0].transpose(0, 1).contiguous(), cos[0], sin[0]) for x in (q, k)]
    return all(torch.equal(a[0].transpose(0, 1), b) for a, b in zip(found, wanted, strict=True))


def _calling(forward: FunctionType, turn: Turn) -> FunctionType:
    """The function with `turn` in place of what it calls `NAME`."""
    names = {**forward.__globals__, NAME: turn}
    same = FunctionType(forward.__code__, names, forward.__name__, forward.__defaults__, forward.__closure__)
    same.__kwdefaults__ = forward.__kwdefaults__
    return same


def _turn(plainly: Any) -> Turn:
    native = native_module()
    assert native is not None  # noqa: S101  it was asked
    compute = native.rotary_embedding

    def turned(x: Tensor, cos: Any, sin: Any) -> Tensor:
        _, heads, rows, width = x.shape
        by_row = x[0].transpose(0, 1)
        if by_row.stride()[1:] != (width, 1) or by_row.stride(0) < heads * width:
            by_row = by_row.contiguous()
        stride = by_row.stride(0) if rows > 1 else heads * width
        y = x.new_empty(rows, heads, width)
        compute(native_view(y), native_view(by_row, (rows, stride)), cos, sin)
        return y.transpose(0, 1)[None]

    def turn(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *args: Any, **others: Any) -> tuple[Tensor, Tensor]:
        """q, k: [1, heads, rows, width]; cos, sin: [1, rows, width]; -> as q and k, views of [rows, heads, width]."""
        fits = all(x.dim() == 4 and (len(x), *x.shape[2:]) == cos.shape == sin.shape and len(x) == 1 for x in (q, k))
        alike = q.dtype == k.dtype == cos.dtype == sin.dtype and q.dtype in TAKEN
        if not (fits and alike) or args or others or torch.is_grad_enabled() or q.device.type != "cpu":
            return plainly(q, k, cos, sin, *args, **others)  # type: ignore[no-any-return]
        cos, sin = cos.contiguous(), sin.contiguous()
        factors = [native_view(factor, factor.shape[1:]) for factor in (cos, sin)]
        return turned(q, *factors), turned(k, *factors)

    return turn
