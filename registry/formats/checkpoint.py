"""A model's checkpoint on disk: a folder as transformers writes it, or one safetensors file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from graftwork.errors import InvalidCheckpoint, SourceNotFound, UnsafeFile
from graftwork.registry.formats.config import check_configs, read_json, read_object
from graftwork.registry.formats.folder import PICKLE_SUFFIXES, check_path, list_files
from graftwork.registry.formats.safetensors import Header, TensorInfo, read_header

INDEX_SUFFIX = ".safetensors.index.json"
MODULES_FILE = "modules.json"
TRANSFORMERS_NAME = "model"
"""What transformers calls the only weight file, and the index of several."""
PICKLED_MODEL = "pytorch_model"


@dataclass(frozen=True, slots=True)
class Located:
    """A tensor and the file of the checkpoint, relative to its root, that holds it."""

    file: str
    info: TensorInfo


@dataclass(frozen=True, slots=True)
class CheckpointLayout:
    """Every file and every tensor of a checkpoint. `headers` has one entry a safetensors file.

    `root` is the folder, or the parent of the single file.
    """

    root: Path
    files: tuple[str, ...]
    headers: Mapping[str, Header]
    tensors: Mapping[str, Located]
    config: Mapping[str, object] | None

    @property
    def metadata(self) -> Mapping[str, str]:
        """The `__metadata__` of the first file."""
        return next(iter(self.headers.values())).metadata


def read_checkpoint(root: Path, *, links_to: Path | None = None, in_place: bool = False) -> CheckpointLayout:
    """Read the headers of the checkpoint at `root`: no tensor data, whatever its size.

    A folder holds one safetensors file, or several with a `*.safetensors.index.json` that maps every tensor. With
    `in_place` it is read as transformers reads it: other weights beside those, and in folders below, are passed over.
    `links_to`, `in_place`: see `list_files`. Raises SourceNotFound, UnsafeFile, InvalidCheckpoint, InvalidSafetensors,
    TooLarge.
    """
    if root.is_file():
        return _single_file(root)
    if not root.is_dir():
        raise SourceNotFound(source=str(root), expected="a checkpoint folder or a .safetensors file")
    files = list_files(root, links_to=links_to, in_place=in_place)
    weight_files = [name for name in files if name.endswith(".safetensors")]
    indexes = [name for name in files if name.endswith(INDEX_SUFFIX) and "/" not in name]
    if in_place:
        _refuse_modules(root, files)
        weight_files, indexes = _of_transformers(weight_files), _of_transformers(indexes)
    else:
        check_configs(root, files)
    if not weight_files:
        raise InvalidCheckpoint(path=str(root), reason=f"it holds no .safetensors file{_where_else(root, files)}")
    if len(indexes) > 1:
        raise InvalidCheckpoint(path=str(root), reason=f"it holds several indexes: {', '.join(indexes)}")
    headers = _sharded(root, files, indexes[0]) if indexes else _unsharded(root, weight_files)
    if (stray := sorted(set(weight_files) - headers.keys())) and not in_place:
        reason = f"{stray[0]!r} is not one of its weight files: {', '.join(list(headers)[:3])}"
        raise InvalidCheckpoint(path=str(root), reason=reason)
    config = read_object(root / "config.json", "config.json") if "config.json" in files else None
    return CheckpointLayout(root, files, headers, _locate(headers), config)


def _of_transformers(names: list[str]) -> list[str]:
    """Of weight files or indexes, those that transformers looks for at the top; else all at the top."""
    top = [name for name in names if "/" not in name]
    return [name for name in top if name.startswith(f"{TRANSFORMERS_NAME}.")] or top


def _refuse_modules(root: Path, files: tuple[str, ...]) -> None:
    """Raise InvalidCheckpoint for a pipeline of sentence-transformers that has weights in a folder of a module."""
    listed = read_json(root / MODULES_FILE, MODULES_FILE) if MODULES_FILE in files else []
    folders = [entry.get("path") for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    for folder in filter(None, folders):
        if any(name.startswith(f"{folder}/") and name.endswith(".safetensors") for name in files):
            reason = f"{MODULES_FILE} lists {folder}, which has weights of its own; only those of one module are merged"
            raise InvalidCheckpoint(path=str(root), reason=reason)


def _where_else(root: Path, files: tuple[str, ...]) -> str:
    """What is there instead of weights at the top of a folder, as the end of a sentence."""
    if folders := sorted({name.rpartition("/")[0] for name in files if name.endswith(".safetensors")}):
        return f"; there are in {', '.join(folders[:4])}{', ...' if len(folders) > 4 else ''}"
    pickles = sorted(path.name for path in root.iterdir() if path.suffix in PICKLE_SUFFIXES)
    if not pickles:
        return ""
    named = next((name for name in pickles if name.startswith(PICKLED_MODEL)), pickles[0])
    return f", and {named} can run code when it is loaded: have transformers load and save the model, as .safetensors"


def _single_file(path: Path) -> CheckpointLayout:
    if path.suffix != ".safetensors":
        raise UnsafeFile(path=path.name, reason="it is not a folder and not a .safetensors file")
    headers = {check_path(path.name): read_header(path)}
    return CheckpointLayout(path.parent, (path.name,), headers, _locate(headers), None)


def _unsharded(root: Path, weight_files: list[str]) -> dict[str, Header]:
    if len(weight_files) > 1:
        reason = f"it holds {len(weight_files)} .safetensors files and no {INDEX_SUFFIX[1:]} that maps their tensors"
        raise InvalidCheckpoint(path=str(root), reason=reason)
    return {weight_files[0]: read_header(root / weight_files[0], label=weight_files[0])}


def _sharded(root: Path, files: tuple[str, ...], index: str) -> dict[str, Header]:
    weight_map = read_object(root / index, index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InvalidCheckpoint(path=str(root), reason=f"{index} has no weight_map")
    if not all(isinstance(shard, str) for shard in weight_map.values()):
        raise InvalidCheckpoint(path=str(root), reason=f"{index} maps a tensor to something that is not a file name")
    headers = {}
    for shard in sorted(set(weight_map.values())):
        if shard not in files:
            raise InvalidCheckpoint(path=str(root), reason=f"the file {shard!r}, which {index} names, is missing")
        headers[shard] = read_header(root / shard, label=shard)
    for tensor, shard in weight_map.items():
        if tensor not in headers[shard].tensors:
            reason = f"the tensor {tensor!r} is missing from {shard!r}"
            raise InvalidCheckpoint(path=str(root), reason=reason)
    for shard, header in headers.items():
        for tensor in header.tensors:
            if weight_map.get(tensor) != shard:
                reason = f"{index} does not say that the tensor {tensor!r} is in {shard!r}"
                raise InvalidCheckpoint(path=str(root), reason=reason)
    return headers


def _locate(headers: Mapping[str, Header]) -> dict[str, Located]:
    return {name: Located(file, info) for file, header in headers.items() for name, info in header.tensors.items()}
