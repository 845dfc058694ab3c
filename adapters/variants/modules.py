"""From the part of an adapter's file that is about one module to its variant."""

from __future__ import annotations

import numpy as np

from graftwork.adapters.variants.dora import Dora, DoraEmbedding
from graftwork.adapters.variants.effect import Indices, ModuleVariant
from graftwork.adapters.variants.embedding import Embedding
from graftwork.adapters.variants.factors import Factor, LoraFactors, RawFactors, read_stored, read_tensor
from graftwork.adapters.variants.hydra import Branch, Hydra
from graftwork.adapters.variants.ia3 import Ia3Input, Ia3Output
from graftwork.adapters.variants.kasa import Kasa
from graftwork.adapters.variants.plain import Plain
from graftwork.adapters.variants.s2ft import S2ft
from graftwork.adapters.variants.vera import Vera
from graftwork.registry.formats.adapters.kinds import Kind
from graftwork.registry.formats.adapters.layout import Part
from graftwork.registry.formats.peft import AdapterLayout


def read_module(layout: AdapterLayout, part: Part) -> ModuleVariant | None:
    """The variant of one module; None where the adapter only replaces parameters of it. Raises NonFiniteTensor."""

    def read(role: str) -> Factor:
        return read_tensor(layout, part.tensors[role])

    def maybe(role: str) -> Factor | None:
        return read(role) if role in part.tensors else None

    def pair(a: str = "lora_A.weight", b: str = "lora_B.weight") -> LoraFactors:
        return LoraFactors(read(a), read(b) * np.float32(part.scale))

    match part.kind:
        case Kind.LORA | Kind.NLORA | Kind.ADALORA | Kind.LOTR:
            return Plain(read_raw(layout, part), maybe("lora_B.bias"))
        case Kind.DORA:
            return Dora(pair(), read("lora_magnitude_vector"))
        case Kind.KASA:
            factors = pair()
            b = factors.b * read("lora_diag")
            return Kasa(LoraFactors(factors.a, b), by_inputs=not layout.config.raw.get("kasa_config"))
        case Kind.EMBEDDING:
            return Embedding(pair("lora_embedding_A", "lora_embedding_B"))
        case Kind.DORA_EMBEDDING:
            return DoraEmbedding(pair("lora_embedding_A", "lora_embedding_B"), read("lora_magnitude_vector"))
        case Kind.VERA:
            a, b = (read_tensor(layout, info) for _, info in sorted(layout.shared.items()))
            return Vera(a, b, read("vera_lambda_d"), read("vera_lambda_b"))
        case Kind.IA3_OUTPUT:
            return Ia3Output(read("ia3_l")[:, 0])
        case Kind.IA3_INPUT:
            return Ia3Input(read("ia3_l")[0])
        case Kind.HYDRA:
            return Hydra(_branch(layout, part, "adapter_par"), _branch(layout, part, "adapter_seq"))
        case Kind.S2FT:
            return S2ft(
                _lines(layout, part, "s2ft_row_indices", "s2ft_rows"),
                _lines(layout, part, "s2ft_column_indices", "s2ft_columns"),
            )
        case Kind.REPLACED:
            return None


def read_raw(layout: AdapterLayout, part: Part) -> RawFactors:
    """The two factors of a module whose change is a product of two, and their scale. Raises NonFiniteTensor.

    AdaLoRA (arXiv:2303.10512) multiplies the rows of A by E; NLoRA has a matrix N between B and A; LoTR
    (arXiv:2402.01376) has (rhs mid lhs)' with outer factors that layers share. All of it is folded here.
    """

    def read(role: str) -> Factor:
        return read_tensor(layout, part.tensors[role])

    match part.kind:
        case Kind.LORA:
            return RawFactors(read("lora_A.weight"), read("lora_B.weight"), part.scale)
        case Kind.NLORA:
            return RawFactors(read("lora_A.weight"), read("lora_B.weight") @ read("lora_N.weight"), part.scale)
        case Kind.ADALORA:
            return RawFactors(read("lora_A") * read("lora_E"), read("lora_B"), part.scale)
        case Kind.LOTR:
            b = np.ascontiguousarray((read("lotr.mid") @ read("lotr.lhs")).T)
            return RawFactors(np.ascontiguousarray(read("lotr.rhs").T), b, part.scale)
        case _:
            raise ValueError(f"{part.module} is {part.kind}, which is no product of two factors")


def _branch(layout: AdapterLayout, part: Part, name: str) -> Branch | None:
    found = {role.removeprefix(f"{name}."): info for role, info in part.tensors.items() if role.startswith(name)}
    if not found:
        return None
    tensors = {role: read_tensor(layout, info) for role, info in found.items()}
    return Branch(
        tensors["down_proj.weight"],
        tensors["up_proj.weight"],
        tensors.get("down_proj.bias"),
        tensors.get("up_proj.bias"),
        float(tensors["scale"][0]) if "scale" in tensors else part.scale,
    )


def _lines(layout: AdapterLayout, part: Part, indices: str, block: str) -> tuple[Indices, Factor] | None:
    if indices not in part.tensors:
        return None
    places: Indices = read_stored(layout, part.tensors[indices]).astype(np.int64)
    return places, read_tensor(layout, part.tensors[block])
