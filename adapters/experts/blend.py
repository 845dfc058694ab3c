"""A mixture whose references were resolved: which versions, at which weights."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import torch

from graftwork.adapters.algebra.algebra import cat
from graftwork.adapters.changes import BaseWeights, Lowered
from graftwork.adapters.experts.lowering import lower_lora
from graftwork.adapters.experts.members import load_member
from graftwork.adapters.variants.lora import LoraAdapter
from graftwork.errors import IncompatibleAdapter, InvalidRequest
from graftwork.registry.versions.version import Kind, Version

SCHEME = "graftwork-mixture-1"
LARGEST = torch.finfo(torch.float32).max
"""Weights are multiplied in float32."""


@dataclass(frozen=True, slots=True)
class Term:
    """One adapter of a blend, and its weight, which is neither 0 nor infinite."""

    version: Version
    weight: float


@dataclass(frozen=True, slots=True)
class Blend:
    """sum_t weight_t * change_t: every adapter once, in the order of their digests."""

    terms: tuple[Term, ...]

    @classmethod
    def of(cls, parts: Iterable[tuple[Version, float]]) -> Blend:
        """The canonical form of resolved parts, whatever their order: an adapter's weights are added up exactly.

        An adapter whose weights cancel is left out. Raises InvalidRequest for a part that is not an adapter, for a
        weight beyond float32 and when nothing is left, IncompatibleAdapter when the parts belong on different bases.
        """
        versions: dict[str, Version] = {}
        weights: dict[str, list[float]] = {}
        for version, weight in parts:
            if version.kind is not Kind.ADAPTER or version.base is None:
                reason = f"{version.ref} is {version.kind.called}; a mixture is made of adapters"
                raise InvalidRequest(field="model", reason=reason)
            versions.setdefault(version.digest, version)
            weights.setdefault(version.digest, []).append(weight)
        totals = {digest: _total(versions[digest].ref, each) for digest, each in weights.items()}
        terms = tuple(Term(versions[digest], totals[digest]) for digest in sorted(totals) if totals[digest] != 0)
        if not terms:
            raise InvalidRequest(field="model", reason="every weight of the mixture is 0; name the base instead")
        for term in terms[1:]:
            if term.version.base != terms[0].version.base:
                bases = " and ".join(str(each.version.base)[:12] for each in (term, terms[0]))
                reason = f"it is mixed with {terms[0].version.ref}, and their bases {bases} differ"
                raise IncompatibleAdapter(adapter=term.version.ref, base=str(terms[0].version.base)[:12], reason=reason)
        return cls(terms)

    @property
    def base(self) -> str:
        """The digest of the base that all of it belongs on."""
        return str(self.terms[0].version.base)

    @property
    def canonical(self) -> str:
        """The same text for the same sum: digests and the shortest decimals that give the weights back."""
        return "+".join(f"{term.version.digest}*{term.weight!r}" for term in self.terms)

    @property
    def name(self) -> str:
        """What messages call it."""
        return " + ".join(f"{term.version.ref}*{term.weight:g}" for term in self.terms)

    @property
    def digest(self) -> str:
        """What names the sum: SHA-256 of the canonical form; a single adapter at weight 1 is that adapter."""
        if len(self.terms) == 1 and self.terms[0].weight == 1:
            return self.terms[0].version.digest
        return hashlib.sha256(f"{SCHEME}\n{self.canonical}".encode()).hexdigest()

    def source(
        self, folder_of: Callable[[Version], Path], dtype: torch.dtype, base: BaseWeights | None = None
    ) -> Callable[[], Lowered]:
        """What loads it, for `Residency.acquire`; `folder_of` gives a version's files."""

        def load() -> Lowered:
            return lower_lora(self.load(folder_of, base).modules, dtype)

        return load

    def load(self, folder_of: Callable[[Version], Path], base: BaseWeights | None = None) -> LoraAdapter:
        """The sum as one adapter, whose ranks are the sums of the parts' ranks, in float32.

        Raises InvalidRequest naming a part that is more than a low-rank change (some are one on a given `base` only),
        NonFiniteTensor.
        """
        adapters = [load_member(folder_of(term.version), term.version.ref, base) for term in self.terms]
        return LoraAdapter(self.name, weighted_sum(adapters, [term.weight for term in self.terms]).modules)


def _total(ref: str, weights: Iterable[float]) -> float:
    """The exact sum of an adapter's weights, rounded once."""
    exact = sum(map(Fraction, weights), Fraction())
    if abs(exact) > Fraction(LARGEST):
        reason = f"the weight of {ref} is larger than a float32 holds; accepted are weights up to {LARGEST:.6g}"
        raise InvalidRequest(field="model", reason=reason)
    return float(exact)


def weighted_sum(adapters: Iterable[LoraAdapter], weights: Iterable[float]) -> LoraAdapter:
    """sum_t w_t change_t by rank concatenation, module by module: the sum of products, never of factors."""
    pairs = list(zip(adapters, weights, strict=True))
    modules: Mapping[str, None] = {module: None for adapter, _ in pairs for module in adapter.modules}
    summed = {}
    for module in modules:
        found = [(adapter.modules[module], weight) for adapter, weight in pairs if module in adapter.modules]
        summed[module] = cat([factors for factors, _ in found], [weight for _, weight in found])
    return LoraAdapter("+".join(adapter.name for adapter, _ in pairs), summed)
