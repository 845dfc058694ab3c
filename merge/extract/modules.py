"""Which tensors of a checkpoint PEFT can adapt, in the model that transformers makes of them, and what it calls them.

The names in a checkpoint are often not those of the model's modules (a vision-language model keeps older ones), several
tensors may become one parameter (experts), and not everything with a matrix is a linear layer to PEFT (routers).
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from graftwork.errors import InvalidCheckpoint
from graftwork.registry.formats.checkpoint import CheckpointLayout


def adaptable_modules(layout: CheckpointLayout) -> Mapping[str, str] | None:
    """The module of each tensor that is the weight of a linear layer; None for a class that transformers has not.

    Left out are layers tied to an embedding, and those that PEFT does not adapt.
    Raises InvalidCheckpoint for a configuration that its class does not take.
    """
    model = _model_of(layout)
    if model is None:
        return None
    found = _linear_weights(model, layout)
    taken = _taken_by_peft(model, set(found.values()))
    return {name: module for name, module in found.items() if module in taken}


def _model_of(layout: CheckpointLayout) -> Any:
    """The model without its weights."""
    import torch
    import transformers
    from huggingface_hub.errors import StrictDataclassError

    architectures = (layout.config or {}).get("architectures")
    named = str(architectures[0]) if isinstance(architectures, list) and architectures else ""
    made: Any = getattr(transformers, named, None) if named.isidentifier() else None
    if not isinstance(made, type) or not issubclass(made, transformers.PreTrainedModel):
        return None
    described: Any = made.config_class
    try:
        with torch.device("meta"):
            return made(described.from_pretrained(layout.root, local_files_only=True))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError, StrictDataclassError) as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        reason = f"transformers makes no {named} of its config.json ({said[0]}); a dense task vector does not need one"
        raise InvalidCheckpoint(path=str(layout.root), reason=reason) from error


def _linear_weights(model: Any, layout: CheckpointLayout) -> dict[str, str]:
    """The linear layer of each tensor that transformers loads unchanged as the weight of one."""
    from torch import nn
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key
    from transformers.pytorch_utils import Conv1D

    state, prefix = model.state_dict(), model.base_model_prefix
    rules = get_model_conversion_mapping(model)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    linear = {
        f"{path}.weight": path
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and id(module.weight) not in embeddings
    }
    found = {}
    for name, located in layout.tensors.items():
        renamed, converted = rename_source_key(name, renamings, converters, prefix, state)
        if renamed not in state and name in state:
            renamed, converted = rename_source_key(name, [], [], prefix, state)
        if converted is None and renamed in linear and tuple(state[renamed].shape) == located.info.shape:
            found[name] = linear[renamed]
    return found


def _taken_by_peft(model: Any, modules: set[str]) -> set[str]:
    """Those of `modules` that PEFT adapts when it is asked to: all at once, or by kinds where it refuses one."""
    kinds = defaultdict(set)
    for module in modules:
        kinds[module.rpartition(".")[2]].add(module)
    for asked in ([modules], kinds.values()):
        taken: set[str] = set()
        for group in asked:
            with suppress(ValueError):
                taken |= _adapted(model, group)
        if taken == modules:
            break
    return taken & modules


def _adapted(model: Any, modules: set[str]) -> set[str]:
    """What PEFT adapts of a model by these names. Raises ValueError as PEFT does."""
    import warnings

    from peft import LoraConfig, get_peft_model

    with warnings.catch_warnings(action="ignore"):
        adapted: Any = get_peft_model(
            copy.deepcopy(model), LoraConfig(r=1, target_modules=sorted(modules)), low_cpu_mem_usage=True
        )
    return set(adapted.targeted_module_names)
