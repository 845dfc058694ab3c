from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from graftwork.testing.family import Family
from graftwork.testing.tiny import tiny_family


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return tiny_family(tmp_path_factory.mktemp("family"), fine_tunes=2, adapters=2)


def weights(folder: Path, file: str = "model.safetensors") -> dict[str, torch.Tensor]:
    return load_file(folder / file)


def test_every_checkpoint_loads_and_computes_finite_logits(family: Family) -> None:
    for folder in (family.base, *family.fine_tunes.values()):
        tokens = AutoTokenizer.from_pretrained(folder)("sort kotami=", return_tensors="pt")["input_ids"]
        logits = AutoModelForCausalLM.from_pretrained(folder)(tokens).logits
        assert logits.shape[:2] == tokens.shape
        assert logits.isfinite().all()


def test_fine_tunes_differ_from_the_base_and_from_each_other_in_every_tensor(family: Family) -> None:
    base, first, second = (weights(folder) for folder in (family.base, *family.fine_tunes.values()))
    assert base.keys() == first.keys() == second.keys()
    for name in base:
        assert not torch.equal(base[name], first[name])
        assert not torch.equal(base[name], second[name])
        assert not torch.equal(first[name], second[name])


def test_peft_loads_every_adapter_and_each_changes_the_logits(family: Family) -> None:
    tokens = AutoTokenizer.from_pretrained(family.base)("sort kotami=", return_tensors="pt")["input_ids"]
    seen = [AutoModelForCausalLM.from_pretrained(family.base)(tokens).logits]
    for folder in family.adapters.values():
        adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(family.base), folder)
        logits = adapted(input_ids=tokens).logits
        assert all((logits - other).abs().max() > 1e-3 for other in seen)
        seen.append(logits)


def test_adapters_have_different_ranks_and_no_zero_factor(family: Family) -> None:
    ranks = []
    for folder in family.adapters.values():
        factors = weights(folder, "adapter_model.safetensors")
        assert all(factor.count_nonzero() == factor.numel() for factor in factors.values())
        ranks.append({factor.shape[0] for name, factor in factors.items() if "lora_A" in name})
    assert ranks == [{4}, {5}]


def test_the_same_seed_gives_the_same_bytes(family: Family, tmp_path: Path) -> None:
    again = tiny_family(tmp_path / "again", fine_tunes=1, adapters=1)
    other = tiny_family(tmp_path / "other", seed=1, fine_tunes=1, adapters=1)
    file = "model.safetensors"
    assert (again.base / file).read_bytes() == (family.base / file).read_bytes()
    assert (again.fine_tunes["ft0"] / file).read_bytes() == (family.fine_tunes["ft0"] / file).read_bytes()
    assert (other.base / file).read_bytes() != (family.base / file).read_bytes()


def test_checkpoints_are_saved_in_the_dtype_that_was_asked_for(tmp_path: Path) -> None:
    family = tiny_family(tmp_path, fine_tunes=1, adapters=0, dtype=torch.bfloat16)
    for folder in (family.base, family.fine_tunes["ft0"]):
        assert {tensor.dtype for tensor in weights(folder).values()} == {torch.bfloat16}
