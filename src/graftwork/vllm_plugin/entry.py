"""The entry point of the group `vllm.general_plugins`: tells vLLM where unknown adapters come from.

vLLM calls it in every one of its processes, before any of them serves; what it needs beyond the standard library is
imported when the first adapter is asked for.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from graftwork.settings import Settings, load_settings

logger = logging.getLogger(__name__)

RESOLVER = "Graftwork"
RANK_OPTIONS = ("--max-lora-rank", "--max_lora_rank")


def register() -> None:
    """Register the resolver, if a server (`GRAFTWORK_URL`) or a registry (`GRAFTWORK_HOME`) is there to pull from.

    It only acts in servers started with VLLM_ALLOW_RUNTIME_LORA_UPDATING=1. Raises InvalidSetting.
    """
    from vllm.lora.resolver import LoRAResolverRegistry

    from graftwork.vllm_plugin.resolver import RegistryResolver

    settings = load_settings()
    if not settings.url and not (settings.home / "registry.db").exists() and not settings.database_url:
        logger.warning("no adapters from a registry: neither GRAFTWORK_URL nor GRAFTWORK_HOME leads to one")
        return
    if RESOLVER not in LoRAResolverRegistry.get_supported_resolvers():
        resolver = RegistryResolver(settings, max_rank=max_rank(sys.argv, settings))
        LoRAResolverRegistry.register_resolver(RESOLVER, resolver)


def max_rank(arguments: Sequence[str], settings: Settings) -> int:
    """The largest rank of this vLLM server: as its command line says, else the setting `max_lora_rank`."""
    for position, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if option in RANK_OPTIONS:
            text = value if equals else arguments[position + 1] if position + 1 < len(arguments) else ""
            if text.isdecimal():
                return int(text)
    return settings.max_lora_rank
