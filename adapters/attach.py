"""Adapters on an unmodified model: a forward hook adds to every linear layer's output."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from graftwork.adapters.loader import Factors
from graftwork.adapters.pool import Resident
from graftwork.kernels.lora_expand import lora_expand
from graftwork.kernels.lora_shrink import lora_shrink


@dataclass(frozen=True, slots=True)
class Pool:
    """One module's rank rows."""

    a: Tensor
    """[rows, in]"""
    b: Tensor
    """[rows, out]"""


@dataclass(frozen=True, slots=True)
class Route:
    """Where one module finds the step's adapters: [slots] int32 each; a rank of 0 leaves the slot's rows alone."""

    pool: Pool
    start: Tensor
    rank: Tensor
    max_rank: int


@dataclass(frozen=True, slots=True)
class Rows:
    """Whose rows a step computes. A slot is an index into `residents`, -1 the base."""

    residents: tuple[Resident, ...]
    slots: Tensor
    """[rows] int32: of every packed row, equal ones adjacent."""
    head_slots: Tensor
    """[logit rows] int32: of the rows that reach the output head."""


class Attachments:
    """The rank-row pools of a model's linear layers.

    A module's pool is made when the first adapter that changes it is installed: adapters that only change attention
    cost no memory in the rest. Installing writes rows that no step reads, so it needs no pause between steps.
    """

    def __init__(self, model: PreTrainedModel, rows: int) -> None:
        self.rows = rows
        self.targets: dict[str, nn.Linear | Conv1D] = {
            name: module for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)
        }
        self.dtype, self.device = model.dtype, model.device
        self._pools: dict[str, Pool] = {}
        self._making = threading.Lock()
        self._routes: Mapping[str, Route] = {}
        self._routed: tuple[Resident, ...] = ()
        self._rows: Rows | None = None
        head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
        for name, module in self.targets.items():
            module.register_forward_hook(self._hook(name, module is head))

    def shape(self, name: str) -> tuple[int, int] | None:
        """(in, out) of a linear layer of the model; None when it has none of that name."""
        module = self.targets.get(name)
        return None if module is None else self._shape(module)

    def install(self, resident: Resident, factors: Mapping[str, Factors]) -> None:
        """Write an adapter into the rows it owns; nothing may read them yet."""
        for name, rank in resident.ranks.items():
            pool = self._pool(name)
            rows = slice(resident.start, resident.start + rank)
            pool.a[rows].copy_(factors[name].a)
            pool.b[rows].copy_(factors[name].b)

    @contextmanager
    def routed(self, rows: Rows) -> Iterator[None]:
        """Within the block, forwards compute `rows`. One block at a time."""
        if rows.residents != self._routed:
            self._routes, self._routed = self._route(rows.residents), rows.residents
        self._rows = rows
        try:
            yield
        finally:
            self._rows = None

    def _route(self, residents: Sequence[Resident]) -> dict[str, Route]:
        start = torch.tensor([resident.start for resident in residents], dtype=torch.int32, device=self.device)
        ranks: dict[tuple[int, ...], Tensor] = {}
        routes = {}
        for name in {name: None for resident in residents for name in resident.ranks}:
            each = tuple(resident.ranks.get(name, 0) for resident in residents)
            if each not in ranks:
                ranks[each] = torch.tensor(each, dtype=torch.int32, device=self.device)
            routes[name] = Route(self._pools[name], start, ranks[each], max(each))
        return routes

    def _hook(self, name: str, is_head: bool) -> Any:
        def add_adapters(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            route = self._routes.get(name)
            if route is None or self._rows is None:
                return
            slots = self._rows.head_slots if is_head else self._rows.slots
            x = args[0].reshape(-1, args[0].shape[-1]).contiguous()
            if len(x) != len(slots):
                raise ValueError(f"{name} computes {len(x)} rows of {len(slots)}, so adapters cannot change it")
            hidden = lora_shrink(x, route.pool.a, route.start, route.rank, slots, route.max_rank)
            lora_expand(output.view(-1, output.shape[-1]), hidden, route.pool.b, route.start, route.rank, slots)

        return add_adapters

    @staticmethod
    def _shape(module: nn.Linear | Conv1D) -> tuple[int, int]:
        out, inner = module.weight.shape if isinstance(module, nn.Linear) else module.weight.shape[::-1]
        return inner, out

    def _pool(self, name: str) -> Pool:
        with self._making:
            if name not in self._pools:
                inner, out = self._shape(self.targets[name])
                a, b = (torch.zeros(self.rows, width, dtype=self.dtype, device=self.device) for width in (inner, out))
                self._pools[name] = Pool(a, b)
            return self._pools[name]
