"""From tensor names to the parts of an adapter: every tensor finds its module and its role, or is refused by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from graftwork.errors import InvalidAdapter
from graftwork.registry.formats.adapters.config import CONFIG_FILE, LoraConfig
from graftwork.registry.formats.adapters.kinds import (
    ACCEPTED,
    EMBEDDING_KINDS,
    FOLDABLE,
    GRAMMARS,
    INDICES,
    KINDS,
    OWN,
    PREFIX,
    SHARED,
    TOGETHER,
    Dims,
    Format,
    Grammar,
    Kind,
)
from graftwork.registry.formats.adapters.layout import LoraModule, Part
from graftwork.registry.formats.adapters.targets import CLASSIFIERS, CLASSIFYING, check_targets
from graftwork.registry.formats.safetensors import Header, TensorInfo

FLOATS = ("F32", "F16", "BF16", "F64")
WHOLE = ("I32", "I64")
MARKED = re.compile(r"(?:^|\.)(?:lora_|vera_|ia3_|s2ft_|lotr|adapter_par|adapter_seq|ranknum|modules_to_save)")
"""What no module of a base is called: a tensor below one belongs to an adapter."""

Roles = dict[str, dict[str, TensorInfo]]


def read_parts(config: LoraConfig, header: Header, root: Path) -> tuple[dict[str, Part], dict[str, TensorInfo]]:
    """The parts by module, and the tensors that all modules share. Raises InvalidAdapter naming the tensor at fault."""
    reading = _Reading(config, root)
    shared_dims = SHARED.get(config.format, {})
    shared = {name: info for name, info in header.tensors.items() if name in shared_dims}
    roles: Roles = {}
    own: Roles = {}
    for info in header.tensors.values():
        if info.name not in shared_dims:
            module, role = reading.place(info.name)
            (own if role in OWN else roles).setdefault(module, {})[role] = info
    if not roles and not own:
        reading.refuse("adapter_model.safetensors holds no tensor")
    reading.share(roles)
    parts = {module: reading.part(module, found, own.pop(module, {})) for module, found in roles.items()}
    parts |= {module: reading.replaced(module, found) for module, found in own.items()}
    reading.check_shared(shared, shared_dims, parts)
    reading.check_saved(parts)
    check_targets(config, parts, reading.refuse)
    return parts, shared


def foldable(parts: Mapping[str, Part]) -> dict[str, LoraModule]:
    """The parts that are products of two factors; those of rank 0 change nothing and are left out."""
    sides = {Kind.LOTR: ("lotr.rhs", "lotr.lhs"), Kind.ADALORA: ("lora_A", "lora_B")}
    modules = {}
    for name, part in parts.items():
        if part.kind in FOLDABLE and part.sizes["r"]:
            a, b = (part.tensors[role].name for role in sides.get(part.kind, ("lora_A.weight", "lora_B.weight")))
            modules[name] = LoraModule(name, a, b, part.sizes["r"], part.sizes["i"], part.sizes["o"], part.scale)
    return modules


def unfoldable(parts: Mapping[str, Part]) -> str | None:
    """Why an adapter is more than products of two factors, by the name of a tensor; None where it is not."""
    for part in parts.values():
        if part.own:
            culprit = list(part.own.values())[-1].name
            what = str(Kind.REPLACED)
            if part.tensors:
                what = "trained, or a copy of the base's own (name the base, or save with save_embedding_layers=False)"
        elif part.kind not in FOLDABLE:
            culprit, what = list(part.tensors.values())[-1].name, str(part.kind)
        elif "lora_B.bias" in part.tensors:
            culprit, what = part.tensors["lora_B.bias"].name, "a trained bias"
        else:
            continue
        return (
            f"its tensor {culprit!r} is {what}, which can be served but is no product of two factors; accepted here "
            f"are adapters of {', '.join(FOLDABLE)} alone"
        )
    return None


class _Reading:
    """One adapter as it is being read."""

    def __init__(self, config: LoraConfig, root: Path) -> None:
        self.config = config
        self.root = root
        self.grammars = {kind: GRAMMARS[kind] for kind in KINDS[config.format]}
        self.roles = {role for grammar in self.grammars.values() for role in grammar.all}.union(OWN)
        self.ends = range(1 + max(role.count(".") for role in self.roles), 0, -1)

    def refuse(self, reason: str) -> NoReturn:
        raise InvalidAdapter(path=str(self.root), reason=reason)

    def place(self, name: str) -> tuple[str, str]:
        """The module and the role of a tensor."""
        path = name.removeprefix(PREFIX)
        steps = path.split(".")
        pairs = ((".".join(steps[:-end]), ".".join(steps[-end:])) for end in self.ends)
        found = next((pair for pair in pairs if pair[1] in self.roles), None)
        if found is None or path == name or MARKED.search(found[0]):
            known = ", ".join(f".{role}" for role in sorted(self.roles.difference(OWN), key=len, reverse=True))
            self.refuse(
                f"the tensor {name!r} is not named {PREFIX}MODULE with one of {known}, or .weight or .bias of a module "
                f"of the base (its type is {self.config.format}); accepted are {ACCEPTED}"
            )
        return found

    def share(self, roles: Roles) -> None:
        """Give LoTR's modules the outer factors that they share with another one."""
        if self.config.format is not Format.LOTR:
            return
        for module, found in roles.items():
            owner = self.config.owner_of(module)
            for role in ("lotr.lhs", "lotr.rhs"):
                if role not in found and owner in roles and role in roles[owner]:
                    found[role] = roles[owner][role]

    def part(self, module: str, found: dict[str, TensorInfo], own: dict[str, TensorInfo]) -> Part:
        """The part of a module that has tensors of the format itself."""
        kind = self._kind(module, found)
        grammar = self.grammars[kind]
        for role in found.keys() - grammar.all.keys():
            self.refuse(f"{found[role].name!r} does not go with {kind}, which the other tensors of {module!r} are")
        self._check_dtypes({**found, **own})
        self._check_ranks(module, kind, found)
        if "lora_B.bias" in found and not self.config.raw.get("lora_bias"):
            self.refuse(f"PEFT would not load its {found['lora_B.bias'].name!r}: {CONFIG_FILE} does not say lora_bias")
        sizes = self._sizes(module, grammar, found)
        rank = sizes.get("r", 0)
        scale = 1.0
        if kind in (*FOLDABLE, *EMBEDDING_KINDS, Kind.DORA, Kind.KASA):
            scale = self.config.scale_for(module, rank)
        elif kind is Kind.HYDRA:
            scale = self.config.scale
        embeds = kind in EMBEDDING_KINDS
        if self.config.raw.get("ensure_weight_tying") and (embeds or module.endswith("lm_head")):
            self._refuse_tying(next(iter(found.values())).name)
        return Part(module, kind, found, own, sizes, scale)

    def replaced(self, module: str, own: dict[str, TensorInfo]) -> Part:
        """The part of a module of which only parameters of its own were trained."""
        self._check_dtypes(own)
        if self.config.raw.get("ensure_weight_tying") and "weight" in own and len(own["weight"].shape) == 2:
            self._refuse_tying(own["weight"].name)
        return Part(module, Kind.REPLACED, {}, own, {}, 1.0)

    def check_shared(self, shared: Mapping[str, TensorInfo], dims: Mapping[str, Dims], parts: dict[str, Part]) -> None:
        """VeRA's projections are there, and at least as large as the modules need."""
        for name in dims:
            if name not in shared:
                self.refuse(
                    f"it has no tensor {name!r}: the random projections were not saved, and they differ between "
                    "versions of torch; train or save it with save_projection=True"
                )
        self._check_dtypes(dict(shared))
        for part in parts.values():
            if part.kind is Kind.VERA:
                a, b = (shared[name].shape for name in dims)
                o, r = part.sizes["o"], part.sizes["r"]
                if len(a) != 2 or len(b) != 2 or a[0] < r or b[1] < r or b[0] < o:
                    self.refuse(
                        f"its projections are {list(a)} and {list(b)}, and {part.module!r} needs [{r}, in_features] "
                        f"and [{o}, {r}]"
                    )

    def check_saved(self, parts: Mapping[str, Part]) -> None:
        """Each of modules_to_save is there."""
        paths = [module for module, part in parts.items() if part.own]
        for name in self.config.modules_to_save:
            if name in CLASSIFIERS and self.config.raw.get("task_type") in CLASSIFYING:
                continue
            wrapped = (".".join(path.split(".")[: end + 1]) for path in paths for end in range(path.count(".") + 1))
            if not any(path.endswith(name) for path in wrapped):
                self.refuse(f"its modules_to_save names {name!r}, of which it has no tensor")

    def _kind(self, module: str, found: Mapping[str, TensorInfo]) -> Kind:
        if self.config.format is Format.IA3:
            shape = found["ia3_l"].shape
            return Kind.IA3_INPUT if len(shape) == 2 and shape[0] == 1 else Kind.IA3_OUTPUT
        fits = [kind for kind, grammar in self.grammars.items() if grammar.required.keys() <= found.keys()]
        if not fits:
            nearest = max(self.grammars, key=lambda kind: len(self.grammars[kind].required.keys() & found.keys()))
            if nearest is Kind.DORA:
                nearest = Kind.LORA
            missing = next(role for role in self.grammars[nearest].required if role not in found)
            beside = next(iter(found.values())).name
            self.refuse(f"{module!r} has no {missing.removesuffix('.weight')} beside its {beside!r}")
        kind = fits[0]
        is_dora = kind in (Kind.DORA, Kind.DORA_EMBEDDING)
        if self.config.use_dora and not is_dora:
            self.refuse(f"{module!r} has no lora_magnitude_vector, and its use_dora is true")
        if self.config.raw.get("kasa_config") is not None and kind is not Kind.KASA:
            self.refuse(f"{module!r} has no lora_diag, and it has a kasa_config")
        if is_dora and not self.config.use_dora:
            name = found["lora_magnitude_vector"].name
            self.refuse(f"it has DoRA's {name!r}, and {CONFIG_FILE} does not say use_dora")
        if (kind is Kind.NLORA) != (self.config.raw.get("init_lora_weights") in ("n_lora", "s_lora")):
            what = found["lora_N.weight"].name if kind is Kind.NLORA else f"{module}.lora_N.weight"
            self.refuse(f"NLoRA has both {what!r} and init_lora_weights 'n_lora' or 's_lora'; this has one of them")
        if kind is Kind.KASA and self.config.fan_in_fan_out:
            self.refuse(f"its {found['lora_diag'].name!r} is KaSA, which is not for layers with fan_in_fan_out")
        for first, second in TOGETHER:
            if (first in found) != (second in found):
                self.refuse(f"{module!r} has no {second if first in found else first}")
        return kind

    def _check_dtypes(self, found: Mapping[str, TensorInfo]) -> None:
        for role, info in found.items():
            accepted = WHOLE if role in INDICES else FLOATS
            if info.dtype not in accepted:
                self.refuse(f"{info.name!r} is {info.dtype}; accepted are {', '.join(accepted)}")

    def _check_ranks(self, module: str, kind: Kind, found: Mapping[str, TensorInfo]) -> None:
        """Compare the factors' rank with the configuration's."""
        pairs = {Kind.EMBEDDING: "lora_embedding_", Kind.DORA_EMBEDDING: "lora_embedding_"}
        if self.config.format not in (Format.LORA, Format.ADALORA):
            return
        a, b = (found.get(f"{pairs.get(kind, 'lora_')}{side}") or found[f"lora_{side}.weight"] for side in ("A", "B"))
        if len(a.shape) != 2 or len(b.shape) != 2:
            shapes = f"{list(a.shape)} and {list(b.shape)}"
            self.refuse(f"the factors of {module!r} are {shapes}; accepted are matrices")
        rank = self.config.rank_for(module)
        if a.shape[0] != rank or b.shape[1] != rank:
            self.refuse(
                f"{module!r} has factors of rank {a.shape[0]} and {b.shape[1]}, and {CONFIG_FILE} gives it rank {rank}"
            )

    def _sizes(self, module: str, grammar: Grammar, found: Mapping[str, TensorInfo]) -> dict[str, int]:
        sizes: dict[str, int] = {}
        for role, info in found.items():
            dims = grammar.all[role]
            if len(info.shape) != len(dims):
                self.refuse(f"{info.name!r} has {len(info.shape)} dimensions; accepted are {len(dims)}")
            for dim, size in zip(dims, info.shape, strict=True):
                wanted = int(dim) if dim.isdigit() else sizes.setdefault(dim, size)
                if size != wanted:
                    self.refuse(
                        f"{info.name!r} is {list(info.shape)}, and the other tensors of {module!r} ask for {wanted} "
                        f"in place of {size}"
                    )
        return sizes

    def _refuse_tying(self, name: str) -> NoReturn:
        self.refuse(
            f"its ensure_weight_tying is set, which makes {name!r} change the embedding and the output head at once; "
            "accepted is an adapter with tensors of its own for each of them"
        )
