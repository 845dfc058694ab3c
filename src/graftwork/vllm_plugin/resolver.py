"""The resolver that vLLM asks for an adapter it does not know."""

from __future__ import annotations

import asyncio

from vllm.lora.request import LoRARequest
from vllm.lora.resolver import LoRAResolver

from graftwork.adapters.fleet.names import EngineName
from graftwork.errors import GraftworkError, InvalidContent
from graftwork.settings import Settings
from graftwork.vllm_plugin.pulled import Pulled, check_servable
from graftwork.vllm_plugin.source import source


class RegistryResolver(LoRAResolver):  # type: ignore[misc]  # vLLM is not installed where types are checked
    """Resolves `ns/name@<12 to 64 digits of a digest>`: a name that never means other weights.

    Aliases are not resolved here: a name that can move must not become the key of vLLM's caches.
    """

    def __init__(self, settings: Settings, *, max_rank: int) -> None:
        self._pulled = Pulled(settings.adapter_cache, source(settings))
        self._max_rank = max_rank

    async def resolve_lora(self, base_model_name: str, lora_name: str) -> LoRARequest | None:
        """The adapter's folder, pulled if need be; None (vLLM answers 404) for a name that is no version's.

        vLLM answers a ValueError with 400 and its message, a RuntimeError with 500: the first for an adapter that it
        cannot serve, the second for a registry that cannot be reached.
        """
        name = EngineName.parse(lora_name)
        if name is None:
            return None
        try:
            folder = await asyncio.to_thread(self._pulled.pull, name)
            if folder is None:
                return None
            await asyncio.to_thread(check_servable, lora_name, folder, max_rank=self._max_rank)
        except InvalidContent as error:
            raise ValueError(str(error)) from error
        except GraftworkError as error:
            raise RuntimeError(str(error)) from error
        # vLLM puts its own id here (OpenAIServingModels.resolve_lora)
        return LoRARequest(lora_name=lora_name, lora_int_id=1, lora_path=str(folder))
