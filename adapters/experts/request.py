"""Routing a whole request at once: by its prompt, before its first step.

The base reads the prompt alone, with the set's gates listening and adding nothing. What they heard, averaged over the
prompt's tokens, is weighed once for every module. The result is a resident of its own: the same rank rows, fixed
gates and a digest that covers them, so that it shares no keys and values with a request that was routed otherwise. No
weight is copied.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from graftwork.adapters.attachment.resident import Resident
from graftwork.adapters.changes import Gate
from graftwork.adapters.experts.gates import FixedGate, SetGate, TokenGate
from graftwork.adapters.residency.lease import Lease

SCHEME = b"graftwork-routed-1\n"


class Reader(Protocol):
    """An engine that can read a prompt without answering it."""

    def read(self, prompt_ids: Sequence[int], resident: Resident) -> Tensor:
        """Run the prompt through the model and `resident`, and give back the mean of its last hidden states, [hidden].

        Raises InvalidRequest for a prompt that the engine would not take.
        """


@dataclass(slots=True, eq=False)
class ListeningGate:
    """Adds up the scores of a gate's rows, and keeps its experts silent."""

    gate: TokenGate | SetGate
    total: Tensor | None = None
    rows: int = 0
    silence: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.silence = torch.zeros_like(self.gate.columns.units, dtype=torch.float32)

    def __call__(self, x: Tensor) -> Tensor:
        """[rows, in] -> zeros [rows, rank]."""
        if isinstance(self.gate, TokenGate) and len(x):
            scores = self.gate.scores(x).sum(dim=0, dtype=torch.float64)
            self.total = scores if self.total is None else self.total + scores
            self.rows += len(x)
        return self.silence.expand(len(x), -1)

    @property
    def nbytes(self) -> int:
        """Bytes of the gate's tensors."""
        return self.gate.nbytes

    @property
    def mean(self) -> Tensor | None:
        """The scores averaged over the rows, [1, units]; None when there were none."""
        return None if self.total is None else (self.total / self.rows).float()[None]


def route(reader: Reader, lease: Lease, prompt_ids: Sequence[int]) -> Lease:
    """A lease on the rank rows of `lease` with gates fixed by the prompt; it takes the pin over.

    `lease` is released in any case. Modules that the prompt's rows never reached keep gates that route token by token.
    Raises what reading the prompt raises.
    """
    with lease:
        resident = lease.resident
        listening = {
            module: ListeningGate(gate)
            for module, gate in resident.gates.items()
            if isinstance(gate, TokenGate | SetGate)
        }
        hidden = reader.read(prompt_ids, replace(resident, gates=listening))
        fixed = settle(resident.gates, listening, hidden)
        digest = _digest(resident.digest, fixed)
        routed = replace(resident, digest=digest, gates=fixed, routed_from=resident.digest)
        return Lease(routed, lease.share().pins)


def settle(gates: Mapping[str, Gate], listened: Mapping[str, ListeningGate], hidden: Tensor) -> dict[str, Gate]:
    """The gates of a request whose prompt was listened to."""
    fixed: dict[str, Gate] = {}
    shared: dict[int, Tensor] = {}
    for module, gate in gates.items():
        if isinstance(gate, SetGate):
            if id(gate.router) not in shared:
                shared[id(gate.router)] = gate.router.weigh(hidden)
            fixed[module] = FixedGate(gate.settle(shared[id(gate.router)]))
        elif isinstance(gate, TokenGate) and (mean := listened[module].mean) is not None:
            fixed[module] = FixedGate(gate.settle(mean)[0])
        else:
            fixed[module] = gate
    return fixed


def _digest(digest: str, gates: Mapping[str, Gate]) -> str:
    hashed = hashlib.sha256(SCHEME + digest.encode())
    for module, gate in sorted(gates.items()):
        if isinstance(gate, FixedGate):
            hashed.update(f"\n{module}\n".encode() + gate.factors.cpu().numpy().tobytes())
    return hashed.hexdigest()
