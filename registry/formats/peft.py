"""An adapter as PEFT saves it: `adapter_config.json` beside `adapter_model.safetensors`.

PEFT is the authority on its formats (src/peft/tuners): LoRA (arXiv:2106.09685), rsLoRA (arXiv:2312.03732), DoRA
(arXiv:2402.09353), KaSA (arXiv:2412.06071), AdaLoRA (arXiv:2303.10512), VeRA (arXiv:2310.11454) and IA3
(arXiv:2205.05638), with modules_to_save and trained biases. Formats that it does not know are in the same two files;
docs/adapter-formats.md describes all of them.
"""

from __future__ import annotations

from pathlib import Path

from graftwork.errors import InvalidAdapter
from graftwork.registry.formats.adapters.config import CONFIG_FILE, LoraConfig, parse_lora_config
from graftwork.registry.formats.adapters.fit import WEIGHTS_FILE, check_against_base
from graftwork.registry.formats.adapters.kinds import ACCEPTED, PREFIX
from graftwork.registry.formats.adapters.layout import AdapterLayout, LoraModule, Part
from graftwork.registry.formats.adapters.parts import foldable, read_parts, unfoldable
from graftwork.registry.formats.config import check_configs
from graftwork.registry.formats.folder import list_files
from graftwork.registry.formats.safetensors import read_header

__all__ = [
    "ACCEPTED",
    "CONFIG_FILE",
    "PREFIX",
    "WEIGHTS_FILE",
    "AdapterLayout",
    "LoraConfig",
    "LoraModule",
    "Part",
    "check_against_base",
    "parse_lora_config",
    "read_adapter",
    "read_layout",
]
MAX_HEADER_BYTES = 4_000_000


def read_adapter(root: Path, *, links_to: Path | None = None, in_place: bool = False) -> AdapterLayout:
    """Read the configuration and the header of the adapter folder `root`; `links_to`, `in_place`: see `list_files`.

    Raises InvalidAdapter naming the tensor or the option at fault, UnsafeFile, InvalidSafetensors, TooLarge,
    SourceNotFound.
    """
    files = list_files(root, links_to=links_to, in_place=in_place)
    for needed in (CONFIG_FILE, WEIGHTS_FILE):
        if needed not in files:
            raise InvalidAdapter(path=str(root), reason=f"it has no {needed}")
    stray = [name for name in files if name.endswith(".safetensors") and name != WEIGHTS_FILE]
    if stray and not in_place:
        raise InvalidAdapter(path=str(root), reason=f"{stray[0]!r} is not part of an adapter")
    check_configs(root, files)
    return read_layout(root, files)


def read_layout(root: Path, files: tuple[str, ...] = (CONFIG_FILE, WEIGHTS_FILE)) -> AdapterLayout:
    """What `read_adapter` reads of a folder of `files` whose other files were checked before, as in a registry.

    Raises InvalidAdapter, InvalidSafetensors, TooLarge.
    """
    config = parse_lora_config(root / CONFIG_FILE)
    header = read_header(root / WEIGHTS_FILE, label=WEIGHTS_FILE, max_bytes=MAX_HEADER_BYTES)
    parts, shared = read_parts(config, header, root)
    return AdapterLayout(root, files, config, parts, shared, header, foldable(parts), unfoldable(parts))
