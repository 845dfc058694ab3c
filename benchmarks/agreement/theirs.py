"""Run mergekit on recipes: executed by the Python of an environment of its own, where Graftwork is not installed.

    python theirs.py RECIPES OUT

Each RECIPES/NAME.yaml becomes OUT/NAME, or OUT/NAME.error with the one line that mergekit failed with.
"""

import logging
import shutil
import sys
from pathlib import Path

import torch
import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions


def main(recipes: Path, out: Path) -> None:
    """Merge every recipe."""
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    for path in sorted(recipes.glob("*.yaml")):
        target = out / path.stem
        options = MergeOptions(quiet=True, write_model_card=False, lora_merge_cache=str(out / "lora"), random_seed=1)
        try:
            run_merge(MergeConfiguration.model_validate(yaml.safe_load(path.read_text())), str(target), options)
        except Exception as error:  # noqa: BLE001
            shutil.rmtree(target, ignore_errors=True)
            (out / f"{path.stem}.error").write_text(f"{type(error).__name__}: {error}".splitlines()[0])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
