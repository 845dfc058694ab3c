"""Adapters on an unmodified model: forward hooks change what its layers compute, row by row."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from graftwork.adapters.attachment.linears import NOTHING, NativeLinear, Planned
from graftwork.adapters.attachment.resident import Resident
from graftwork.adapters.changes import FactorRows, Gate
from graftwork.adapters.forms.form import Form
from graftwork.kernels.lora_expand import lora_expand
from graftwork.kernels.lora_fill import PoolRows
from graftwork.kernels.lora_plan import LoraPlan, LoraPool, Segments
from graftwork.kernels.lora_shrink import lora_shrink

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Pool:
    """One module's rank rows."""

    a: Tensor
    """[rows, in]"""
    b: Tensor
    """[rows, out]"""
    native: LoraPool | None
    """The same, where one call can do the whole low rank."""

    def rows(self, start: int, end: int) -> FactorRows:
        """Those from `start` to `end`."""
        views = (None, None) if self.native is None else self.native.views
        return FactorRows(*(PoolRows(side, start, end, of) for side, of in zip((self.a, self.b), views, strict=True)))


@dataclass(frozen=True, slots=True)
class Route:
    """Where one module finds the step's adapters: [slots] int32 each; a rank of 0 leaves the slot's rows alone."""

    pool: Pool
    start: Tensor
    rank: Tensor
    max_rank: int
    gates: Mapping[int, Gate]
    """By slot."""
    plan: LoraPlan | None
    """Of the whole low rank, where one call can do it."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Whose rows a step computes. A slot is an index into `residents`, -1 the base."""

    residents: tuple[Resident, ...]
    slots: Tensor
    """[rows] int32: of every packed row, equal ones adjacent."""
    head_slots: Tensor
    """[logit rows] int32: of the rows that reach the output head."""


class Attachments:
    """The rank-row pools of a model's linear layers, and the hooks that bring adapters into its forward.

    A module's pool is made when the first adapter that changes it is installed: adapters that only change attention
    cost no memory in the rest. Installing writes rows that no step reads, so it needs no pause between steps.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        rows: int,
        heads: Collection[nn.Module] = (),
        linears: Mapping[nn.Module, NativeLinear] = MappingProxyType({}),
    ) -> None:
        """`heads`: modules that see the rows of `Rows.head_slots`, beside the model's output embedding; `linears`:
        what was taken over of the model, which adds low ranks without a hook.
        """
        self.rows = rows
        self.modules = dict(model.named_modules(remove_duplicate=False))
        self.targets: dict[str, nn.Linear | Conv1D] = {
            name: module for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)
        }
        self._shapes = {name: self._shape(module) for name, module in self.targets.items()}
        self.dtype, self.device = model.dtype, model.device
        self._heads = {model.get_output_embeddings(), *heads}  # type: ignore[no-untyped-call]
        self._pools: dict[str, Pool] = {}
        self._making = threading.Lock()
        self._routes: Mapping[str, Route] = {}
        self._forms: Mapping[str, Mapping[int, Form]] = {}
        self._hooked: dict[str, tuple[RemovableHandle, ...]] = {}
        self._routed: tuple[Resident, ...] = ()
        self._rows: Rows | None = None
        self._segments: dict[bool, Segments] = {}
        self.aside: dict[str, dict[int, Tensor]] = {}
        """By module and slot: the last forward's rows of adapters whose form makes them of another width than the
        module's, as a classification head does that has labels of its own."""
        self._token_axis: dict[str, int] = {}
        """Of modules that see each row once for every head, as norms of queries do: the axis of their rows."""
        self.multiplies_natively = bool(linears)
        """Whether the heavy part of a step is done by the threads of the kernels."""
        for name, module in self.targets.items():
            low_rank = _LowRank(self, name, is_head=module in self._heads)
            if module in linears:
                linears[module].low_rank = low_rank
            else:
                module.register_forward_hook(low_rank.hook)

    def shape(self, name: str) -> tuple[int, int] | None:
        """(in, out) of a linear layer of the model; None when it has none of that name."""
        return self._shapes.get(name)

    def module(self, module: str) -> nn.Module:
        """A module of the model, as `changes.BaseWeights` wants it. Raises KeyError."""
        found: nn.Module = self.modules[module]
        return found

    def tied(self, module: str) -> tuple[str, ...]:
        """The other modules with the same weight. Raises KeyError."""
        weight = getattr(self.modules[module], "weight", None)
        same = (name for name, other in self.modules.items() if getattr(other, "weight", None) is weight)
        return () if weight is None else tuple(name for name in same if name != module)

    def weight(self, module: str) -> Tensor:
        """A module's weight as `changes.BaseWeights` wants it. Raises KeyError."""
        weight: Tensor | None = getattr(self.modules[module], "weight", None)
        if weight is None:
            raise KeyError(module)
        return weight.detach().t() if isinstance(self.modules[module], Conv1D) else weight.detach()

    def bias(self, module: str) -> Tensor | None:
        """A module's bias, or None. Raises KeyError."""
        bias: Tensor | None = getattr(self.modules[module], "bias", None)
        return None if bias is None else bias.detach()

    def takes_any_width(self, module: str) -> bool:
        """Never: what follows the module wants its own width."""
        return False

    def name_of(self, module: str) -> str | None:
        """What this model calls a module of an adapter, None where that is left out; here, the same."""
        return module

    def rows_of(self, resident: Resident) -> dict[str, FactorRows]:
        """The rows that an adapter owns, by module: to be written while nothing reads them yet."""
        return {
            name: self._pool(name).rows(resident.start, resident.start + rank) for name, rank in resident.ranks.items()
        }

    @contextmanager
    def routed(self, rows: Rows) -> Iterator[None]:
        """Within the block, forwards compute `rows`. One block at a time."""
        if rows.residents != self._routed:
            self._routes, self._routed = self._route(rows.residents), rows.residents
            self._forms = _by_module([resident.forms for resident in rows.residents])
            self._hook_forms()  # here, because a forward must not meet a changing module
        self._rows = rows
        self._segments = {}
        self.aside = {}
        try:
            yield
        finally:
            self._rows = None

    @contextmanager
    def observing(self) -> Iterator[None]:
        """Within the block, forwards show which modules see their rows once for every head, and along which axis."""

        def look(name: str) -> Any:
            def seen(module: nn.Module, args: tuple[Any, ...], output: object) -> None:
                x, rows = args[0] if args else None, len(self._rows.slots) if self._rows is not None else 0
                if isinstance(x, Tensor) and x.dim() == 4 and x.shape[1] != x.shape[2] and rows in x.shape[1:3]:
                    self._token_axis[name] = 1 if x.shape[1] == rows else 2

            return seen

        single = [name for name, module in self.modules.items() if getattr(module, "weight", None) is not None]
        hooks = [self.modules[name].register_forward_hook(look(name)) for name in single if name not in self.targets]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _route(self, residents: Sequence[Resident]) -> dict[str, Route]:
        starts, each_of = [resident.start for resident in residents], [resident.ranks for resident in residents]
        start = torch.tensor(starts, dtype=torch.int32, device=self.device)
        gates = _by_module([resident.gates for resident in residents])
        ranks: dict[tuple[int, ...], Tensor] = {}
        routes = {}
        for name in {name: None for resident in residents for name in resident.ranks}:
            each = tuple([of.get(name, 0) for of in each_of])
            if each not in ranks:
                ranks[each] = torch.tensor(each, dtype=torch.int32, device=self.device)
            pool, gated = self._pools[name], gates.get(name, {})
            plan = None if pool.native is None or gated else LoraPlan(pool.native, starts, each)
            routes[name] = Route(pool, start, ranks[each], max(each), gated, plan)
        return routes

    def step_of(self, name: str, *, is_head: bool) -> tuple[Route, Tensor] | None:
        """How the step changes a linear layer, and whose rows it sees; None where it leaves it alone."""
        route = self._routes.get(name)
        if route is None or self._rows is None:
            return None
        return route, self._rows.head_slots if is_head else self._rows.slots

    def segments_of(self, slots: Tensor, *, is_head: bool) -> Segments:
        """The same slots as the kernels want them."""
        if is_head not in self._segments:
            self._segments[is_head] = Segments(slots.tolist())
        return self._segments[is_head]

    def _hook_forms(self) -> None:
        """Let the modules that forms change be hooked, and no others: those are computed together where they can be."""
        for name in self._hooked.keys() - self._forms.keys():
            for hook in self._hooked.pop(name):
                hook.remove()
        for name in self._forms.keys() - self._hooked.keys():
            self._hooked[name] = self._hooks_of(name)

    def _hooks_of(self, name: str) -> tuple[RemovableHandle, ...]:
        """By which forms of a module, of whatever kind it is, see its input and its output, after the low rank."""
        module = self.modules[name]
        is_head = module in self._heads

        def before(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
            forms, rows = self._forms.get(name), self._rows
            if forms is None or rows is None or name in self._token_axis:
                return None
            slots = rows.head_slots if is_head else rows.slots
            x = _as_rows(module, args[0])
            _require_rows(name, len(x), len(slots))
            changed = x
            for slot, form in forms.items():
                mine = slots == slot
                given = x[mine]
                if (wanted := form.before(given)) is not given:
                    changed = x.clone() if changed is x else changed
                    changed[mine] = wanted
            return None if changed is x else (changed.view(args[0].shape), *args[1:])

        def after(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            forms, rows = self._forms.get(name), self._rows
            if forms is None or rows is None:
                return
            if name in self._token_axis:
                _change_heads(forms, args[0], output, self._token_axis[name], rows.slots)
                return
            slots, route = rows.head_slots if is_head else rows.slots, self._routes.get(name)
            x, y = _as_rows(module, args[0]), output.view(-1, output.shape[-1])
            for slot, form in forms.items():
                mine = slots == slot
                made = form.after(x[mine], y[mine], route is not None and name in rows.residents[slot].ranks)
                if made.shape[-1] == y.shape[-1]:
                    y[mine] = made
                else:
                    self.aside.setdefault(name, {})[slot] = made

        return module.register_forward_pre_hook(before), module.register_forward_hook(after)

    @staticmethod
    def _shape(module: nn.Linear | Conv1D) -> tuple[int, int]:
        out, inner = module.weight.shape if isinstance(module, nn.Linear) else module.weight.shape[::-1]
        return inner, out

    def _pool(self, name: str) -> Pool:
        with self._making:
            if name not in self._pools:
                a, b = (
                    torch.zeros(self.rows, width, dtype=self.dtype, device=self.device) for width in self._shapes[name]
                )
                self._pools[name] = Pool(a, b, LoraPool(a, b) if LoraPool.takes(a, b) else None)
            return self._pools[name]


class _LowRank:
    """What the adapters of a step add to one linear layer."""

    def __init__(self, attachments: Attachments, name: str, *, is_head: bool) -> None:
        self._attachments, self._name, self._is_head = attachments, name, is_head

    def planned(self, rows: int, dtype: torch.dtype) -> Planned | None:
        step = self._attachments.step_of(self._name, is_head=self._is_head)
        if step is None:
            return NOTHING
        route, slots = step
        if route.plan is None or route.plan.dtype != dtype:
            return None
        segments = self._attachments.segments_of(slots, is_head=self._is_head)
        _require_rows(self._name, rows, segments.tokens)
        return segments.native, route.plan.native

    def add(self, y: Tensor, x: Tensor) -> None:
        step = self._attachments.step_of(self._name, is_head=self._is_head)
        if step is None:
            return
        route, slots = step
        x, y = x.reshape(-1, x.shape[-1]).contiguous(), y.view(-1, y.shape[-1])
        _require_rows(self._name, len(x), len(slots))
        if route.plan is not None and route.plan.add(y, x, self._attachments.segments_of(slots, is_head=self._is_head)):
            return
        hidden: Any = lora_shrink(x, route.pool.a, route.start, route.rank, slots, route.max_rank)
        for slot, gate in route.gates.items():
            mine = slots == slot
            weights = gate(x[mine])
            hidden[mine, : weights.shape[1]] *= weights
        lora_expand(y, hidden, route.pool.b, route.start, route.rank, slots)

    def hook(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        self.add(output, args[0])


def _by_module(each: Sequence[Mapping[str, T]]) -> dict[str, dict[int, T]]:
    """Module -> slot -> what the slot's adapter has there."""
    found: dict[str, dict[int, T]] = {}
    for slot, parts in enumerate(each):
        for name, part in parts.items():
            found.setdefault(name, {})[slot] = part
    return found


def _change_heads(forms: Mapping[int, Form], x: Tensor, y: Tensor, axis: int, slots: Tensor) -> None:
    """Let forms change `y` in place. x, y: [1, rows, heads, width] or [1, heads, rows, width], as `axis` says."""
    for slot, form in forms.items():
        mine = (slice(None),) * axis + (slots == slot,)
        y[mine] = form.after(x[mine].transpose(1, axis), y[mine].transpose(1, axis), False).transpose(1, axis)


def _as_rows(module: nn.Module, x: Tensor) -> Tensor:
    return x.reshape(-1) if isinstance(module, nn.Embedding) else x.reshape(-1, x.shape[-1])


def _require_rows(name: str, rows: int, wanted: int) -> None:
    if rows != wanted:
        raise ValueError(f"{name} computes {rows} rows of {wanted}, so adapters cannot change it")
