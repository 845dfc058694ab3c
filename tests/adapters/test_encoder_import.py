"""Encoder folders as they are published come through the registry and are served."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from graftwork.adapters.encoder.engine import EncoderEngine
from graftwork.errors import IncompatibleAdapter
from graftwork.registry.refs import Name, Ref
from graftwork.registry.registry import Registry
from graftwork.registry.transfer.importer import import_source
from graftwork.registry.transfer.snapshots import materialise
from graftwork.settings import Settings
from graftwork.testing.encoders import EncoderFamily, tiny_encoder

pytestmark = pytest.mark.filterwarnings("ignore:.*ignore_mismatched_sizes:UserWarning")
BASE = Ref.parse("enc/base")


def publish(folder: Path) -> None:
    """Make the folder what sentence-transformers saved for years: a buffer among the weights, files in a subfolder."""
    weights = load_file(folder / "model.safetensors")
    weights["embeddings.position_ids"] = torch.arange(80)[None]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    kinds = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in kinds]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    (folder / "data_config.json").write_text("[]")


def test_a_published_folder_and_adapters_of_both_sorts_are_accepted(tmp_path: Path) -> None:
    family = tiny_encoder(tmp_path, "bert")
    family.add("bare", labels=None, seed=1)
    family.add("headed", labels=3, seed=2)
    publish(family.base)
    settings = Settings(home=tmp_path / "home")
    with Registry.open(settings) as registry:
        version = import_source(registry, str(family.base), Name.parse("enc/base"))
        for name, folder in family.adapters.items():
            import_source(registry, str(folder), Name("enc", name), base=BASE)
        engine = EncoderEngine.load(materialise(registry, version), settings)
        assert engine.pooling.modes == ("cls",)
        assert engine.pooling.normalize
        engine.close()


def test_an_adapter_of_another_size_is_refused_at_the_door(tmp_path: Path) -> None:
    family = tiny_encoder(tmp_path, "bert")
    headed = family.add("headed", labels=3, seed=2)
    weights = load_file(headed / "adapter_model.safetensors")
    name = next(name for name in weights if name.endswith("query.lora_A.weight"))
    weights[name] = torch.zeros(4, 31)
    save_file(weights, headed / "adapter_model.safetensors")
    with Registry.open(Settings(home=tmp_path / "home")) as registry:
        import_source(registry, str(family.base), Name.parse("enc/base"))
        with pytest.raises(IncompatibleAdapter, match="query"):
            import_source(registry, str(headed), Name.parse("enc/headed"), base=BASE)


def test_a_decoder_takes_no_head_of_an_encoder(tmp_path: Path) -> None:
    family: EncoderFamily = tiny_encoder(tmp_path, "bert")
    headed = family.add("headed", labels=3, seed=2)
    config = json.loads((family.base / "config.json").read_text())
    (family.base / "config.json").write_text(json.dumps({**config, "architectures": ["BertLMHeadModel"]}))
    with Registry.open(Settings(home=tmp_path / "home")) as registry:
        import_source(registry, str(family.base), Name.parse("enc/base"))
        with pytest.raises(IncompatibleAdapter, match="which the base does not have"):
            import_source(registry, str(headed), Name.parse("enc/headed"), base=BASE)
