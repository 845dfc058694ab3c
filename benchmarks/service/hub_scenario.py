"""What a client of the Hub does with the server that HF_ENDPOINT names, by whichever huggingface_hub runs this file.

    python hub_scenario.py BASE_FOLDER ADAPTER_FOLDER NAMESPACE

It needs huggingface_hub only, of any release from 0.36 on. It prints a line a step, and ends with status 1 at the first
one that is not as it should be.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

CONFIG = "adapter_config.json"


def main(base: Path, adapter: Path, namespace: str) -> None:
    """Push a base and an adapter, and read them in every way."""
    api = HfApi()
    model, lora = f"{namespace}/base", f"{namespace}/lora"

    def step(name: str, action: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        try:
            result = action()
        except Exception as error:  # noqa: BLE001 (whatever it is, it is the result)
            message = " ".join(str(error).split())
            print(json.dumps({"step": name, "failed": type(error).__name__, "message": message[-600:]}), flush=True)
            sys.exit(1)
        print(json.dumps({"step": name, "seconds": round(time.perf_counter() - began, 3)}), flush=True)
        return result

    def fails(kind: type[Exception], action: Callable[[], Any], words: str = "") -> None:
        try:
            action()
        except kind as error:
            check(words in str(error), error)
        else:
            raise AssertionError(f"no {kind.__name__}")

    def check(is_so: bool, what: object = "") -> None:
        assert is_so, what

    print(json.dumps({"client": huggingface_hub.__version__, "xet": _has_xet()}), flush=True)
    step("whoami", lambda: api.whoami(token="gw_any")["name"])
    step("create_repo", lambda: api.create_repo(model))
    step("create_repo, exist_ok", lambda: api.create_repo(model, exist_ok=True))
    step("create_repo, there already", lambda: fails(HfHubHTTPError, lambda: api.create_repo(model), "already"))
    commit = step("upload_folder", lambda: api.upload_folder(repo_id=model, folder_path=base))
    again = step("upload_folder, unchanged", lambda: api.upload_folder(repo_id=model, folder_path=base))
    step("the same commit", lambda: check(commit.oid == again.oid))
    names = {path.relative_to(base).as_posix() for path in base.rglob("*") if path.is_file()}
    step("list_repo_files", lambda: check(set(api.list_repo_files(model)) == names | {"README.md"}))
    info = step("model_info", lambda: api.model_info(model, files_metadata=True))
    step("its commit", lambda: check(info.sha == commit.oid, info.sha))
    refs = step("list_repo_refs", lambda: api.list_repo_refs(model))
    step("main and v1", lambda: check({ref.target_commit for ref in [*refs.branches, *refs.tags]} == {commit.oid}))
    step("list_models", lambda: check(model in {found.id for found in api.list_models(search="base")}))
    with tempfile.TemporaryDirectory() as folder:
        for revision in ("main", "v1", commit.oid):
            fetch = partial(snapshot_download, model, revision=revision)
            local = Path(step(f"snapshot_download at {revision[:4]}", fetch))
            step("its bytes", partial(_check_same, local, base, names))
        step("hf_hub_download", lambda: hf_hub_download(model, "config.json", local_dir=folder))
        step("paths info", lambda: check(api.get_paths_info(model, ["config.json"])[0].path == "config.json"))
        step("no such file", lambda: fails(EntryNotFoundError, lambda: hf_hub_download(model, "absent.json")))
        step(
            "no such revision",
            lambda: fails(RevisionNotFoundError, lambda: hf_hub_download(model, "config.json", revision="v9")),
        )
        step("no such model", lambda: fails(RepositoryNotFoundError, lambda: api.model_info(f"{namespace}/absent")))
        copy = Path(folder) / "adapter"
        shutil.copytree(adapter, copy, ignore=shutil.ignore_patterns("README.md"))
        config = json.loads((copy / CONFIG).read_text())
        (copy / CONFIG).write_text(json.dumps(config | {"base_model_name_or_path": model}))
        step("create_repo, private", lambda: api.create_repo(lora, private=True))
        step("upload_folder, an adapter", lambda: api.upload_folder(repo_id=lora, folder_path=copy))
        step("it is private", lambda: check(api.model_info(lora).private is True))
    card = step("a card", lambda: Path(hf_hub_download(lora, "README.md")).read_text())
    step("its card names the base, by the first name of its content", lambda: check("/base\n" in card, card))
    before = api.model_info(lora).sha
    step("upload_file", lambda: api.upload_file(repo_id=lora, path_or_fileobj=b"# Mine\n", path_in_repo="README.md"))
    stale: dict[str, Any] = {"repo_id": lora, "path_or_fileobj": b"x", "path_in_repo": "a.txt", "parent_commit": before}
    step("a stale parent", lambda: fails(HfHubHTTPError, lambda: api.upload_file(**stale), "412"))
    pickled: dict[str, Any] = {"repo_id": lora, "path_or_fileobj": b"x", "path_in_repo": "adapter_model.bin"}
    step("a pickle", lambda: fails(HfHubHTTPError, lambda: api.upload_file(**pickled), "can run code"))
    step("create_tag", lambda: api.create_tag(lora, tag="prod", revision="v1"))
    step("a tag as revision", lambda: check(api.model_info(lora, revision="prod").sha == before))
    step("delete_file", lambda: api.delete_file("README.md", lora))
    step("back at v1", lambda: check(api.model_info(lora).sha == before))


def _check_same(one: Path, other: Path, names: set[str]) -> None:
    assert all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


def _has_xet() -> bool:
    try:
        from huggingface_hub.utils._runtime import is_xet_available
    except ImportError:
        return False
    return bool(is_xet_available())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
