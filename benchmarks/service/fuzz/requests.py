"""Targets that read what comes in requests: recipes, plans, sweeps, multipart bodies, names and paths."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Any

import yaml
from starlette.requests import Request

from benchmarks.service.fuzz import mutation
from graftwork.api.uploads.bodies import content_digest
from graftwork.api.uploads.multipart import Allowed, _boundary, _Staging
from graftwork.merge.plan.plan import plan
from graftwork.merge.recipe.recipe import digest, load_recipe
from graftwork.merge.sweep.sweep import load_sweep
from graftwork.registry.access.grants import Grants
from graftwork.registry.formats.folder import Spellings, check_kind, check_path
from graftwork.registry.refs import Name, Ref, check_alias
from graftwork.settings import Settings
from graftwork.testing.tiny import tiny_family

MODELS = ("{ft0}", "{ft1}")


def recipes() -> list[dict[str, Any]]:
    """One recipe of each sort."""
    pair = [{"model": model, "parameters": {"weight": 0.5}} for model in MODELS]
    return [
        {"merge_method": "linear", "models": pair, "dtype": "bfloat16"},
        {
            "merge_method": "ties",
            "base_model": "{base}",
            "models": pair,
            "parameters": {"density": 0.5, "int8_mask": True},
        },
        {
            "merge_method": "slerp",
            "base_model": "{ft0}",
            "models": [{"model": "{ft1}"}],
            "parameters": {"t": [0, 0.5, 1]},
        },
        {
            "merge_method": "dare_ties",
            "base_model": "{base}",
            "models": [
                {
                    "model": model,
                    "parameters": {"weight": [{"filter": "mlp", "value": 0.3}, {"value": 0.7}], "density": 0.4},
                }
                for model in MODELS
            ],
            "seed": 7,
            "tokenizer": {"source": "union", "tokens": {"<s>": {"source": "{ft0}", "force": True}}},
        },
        {
            "merge_method": "passthrough",
            "slices": [
                {"sources": [{"model": "{ft0}", "layer_range": [0, 1]}]},
                {"sources": [{"model": "{ft1}", "layer_range": [0, 2], "parameters": {"scale": 0.5}}]},
            ],
            "output": {"name": "acme/stack"},
        },
        {"merge_method": "model_stock", "base_model": "{base}", "models": [{"model": model} for model in MODELS]},
        {
            "merge_method": "lora_svd",
            "models": [{"model": "{adapter0}"}, {"model": "{adapter1}"}],
            "parameters": {"rank": 2},
        },
    ]


SWEEP: dict[str, Any] = {
    "recipe": {"merge_method": "linear", "models": [{"model": "a/b", "parameters": {"weight": 1}}, {"model": "a/c"}]},
    "grid": {
        "models[0].parameters.weight": [0.1, 0.2],
        "models[1].parameters.weight": {"from": 0, "to": 1, "step": 0.5},
    },
    "evaluate": {"command": ["python", "judge.py", "{model}"], "metric": "accuracy", "goal": "maximise"},
}


def as_text(rng: random.Random, value: Any) -> str:
    """YAML, sometimes of several documents, with anchors, or not quite YAML."""
    try:
        dumped: str = yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
    except (yaml.YAMLError, ValueError, RecursionError):
        dumped = "[" * 2000
    if rng.random() < 0.1:
        dumped = f"{dumped}---\n{dumped}"
    if rng.random() < 0.02:
        bomb = ["a: &a [x, x, x, x, x, x, x, x, x]"]
        bomb += [
            f"{two}: &{two} [{', '.join(['*' + one] * 9)}]" for one, two in zip("abcdefgh", "bcdefghi", strict=True)
        ]
        dumped = dumped + "\n".join(bomb) + "\n"
    return mutation.text(rng, dumped) if rng.random() < 0.3 else dumped


class Recipes:
    """Recipes as JSON and as YAML."""

    name = "recipes"

    def prepare(self, folder: Path) -> None:
        """Make what the cases need."""
        self._seeds = recipes()

    def case(self, rng: random.Random) -> None:
        """One recipe."""
        raw = mutation.mutated(rng, rng.choice(self._seeds), self._seeds)
        recipe = load_recipe(raw if isinstance(raw, dict) and rng.random() < 0.6 else as_text(rng, raw))
        digest(recipe)
        assert load_recipe(recipe.as_yaml()) is not None


class Plans:
    """Recipes of models that are there, planned."""

    name = "plans"

    def prepare(self, folder: Path) -> None:
        """Make what the cases need."""
        family = tiny_family(folder, fine_tunes=2, adapters=2)
        named = {"base": family.base, **family.fine_tunes, **family.adapters}
        self._names = {f"{{{name}}}": str(path) for name, path in named.items()}
        self._seeds = [self._placed(recipe) for recipe in recipes()]
        self._settings = Settings(home=folder / "home", threads=1, memory=50_000_000)

    def case(self, rng: random.Random) -> None:
        """One recipe, mostly one that is understood."""
        raw = mutation.mutated(rng, rng.choice(self._seeds), self._seeds)
        plan(load_recipe(raw if isinstance(raw, dict) else {}), settings=self._settings).close()

    def _placed(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self._placed(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self._placed(item) for item in value]
        return self._names.get(value, value) if isinstance(value, str) else value


class Sweeps:
    """Documents of sweeps."""

    name = "sweeps"

    def prepare(self, folder: Path) -> None:
        """Make what the cases need."""
        self._file = folder / "sweep.yaml"
        self._file.touch()

    def case(self, rng: random.Random) -> None:
        """One document."""
        text = as_text(rng, mutation.mutated(rng, SWEEP, [SWEEP, *recipes()]))
        self._file.write_bytes(text.encode("utf-8", "surrogatepass"))
        load_sweep(self._file)


BODY = (
    b'--x\r\nContent-Disposition: form-data; name="name"\r\n\r\nup/good\r\n'
    b'--x\r\nContent-Disposition: form-data; name="base"\r\n\r\ntiny/base\r\n'
    b'--x\r\nContent-Disposition: form-data; name="files"; filename="adapter_config.json"\r\n'
    b"Content-Type: application/json\r\n\r\n" + b'{"r": 4}\r\n'
    b'--x\r\nContent-Disposition: form-data; name="files"; filename="adapter_model.safetensors"\r\n\r\n'
    + bytes(200)
    + b"\r\n--x--\r\n"
)
TYPES = (
    b"multipart/form-data; boundary=x",
    b'multipart/form-data; boundary="x"; charset=utf-8',
    b"multipart/mixed; boundary=x",
)


class Bodies:
    """Multipart bodies, in pieces of any size, and the headers that go with uploads."""

    name = "multipart"

    def prepare(self, folder: Path) -> None:
        """Make what the cases need."""
        self._folder = folder

    def case(self, rng: random.Random) -> None:
        """One body."""
        kind = mutation.raw(rng, rng.choice(TYPES)) if rng.random() < 0.1 else TYPES[0]
        digest_header = b"sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:"
        headers = [(b"content-type", kind), (b"content-digest", mutation.raw(rng, digest_header))]
        request = Request({"type": "http", "headers": headers})
        body = mutation.raw(rng, BODY) if rng.random() < 0.6 else BODY
        if rng.random() < 0.3:
            body = body.replace(
                b"adapter_config.json", rng.choice(mutation.ODD_TEXTS).encode("utf-8", "surrogatepass"), 1
            )
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            allowed = Allowed(("name", "base"), rng.choice((0, 100, 10_000)))
            staging = _Staging(Path(folder), _boundary(request), allowed)
            try:
                at = 0
                while at < len(body):
                    step = rng.choice((1, 2, 7, 64, 4096))
                    staging.feed(body[at : at + step])
                    at += step
            finally:
                staging.close()
            staging.finish().required("name")
        content_digest(request)


class Names:
    """Names, references, aliases, tags, paths and grants."""

    name = "names"

    def prepare(self, folder: Path) -> None:
        """Make what the cases need."""

    def case(self, rng: random.Random) -> None:
        """One of each."""
        seed = rng.choice(
            ("acme/llama", "acme/llama@prod", "acme/llama@v3", "a/b@0123456789abcdef", "dir/model.safetensors")
        )
        value = mutation.text(rng, seed) if rng.random() < 0.8 else rng.choice(mutation.ODD_TEXTS)
        spellings = Spellings()
        readers = (Name.parse, Ref.parse, check_alias, check_path, check_kind, spellings.add)
        rng.choice(readers)(value)
        if rng.random() < 0.1:
            Grants.parse({value: [rng.choice(("read", "write", "", value))]})
