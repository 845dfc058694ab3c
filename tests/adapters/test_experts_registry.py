"""Expert sets as versions of the registry: pinned, checked, children of their members; and as a command makes them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from graftwork.adapters.experts.expert_set import load_expert_set
from graftwork.adapters.experts.selection import parse_selection, selection_digest
from graftwork.adapters.variants.lora import load_lora
from graftwork.cli.main import main
from graftwork.errors import InvalidExpertSet, InvalidReference, InvalidRequest, NotFound
from graftwork.registry.formats.experts import CONFIG_FILE, WEIGHTS_FILE, layer_of, parse_layers, read_experts
from graftwork.registry.refs import Name, Ref
from graftwork.registry.registry import Registry
from graftwork.registry.transfer.expert_sets import Member, create_expert_set
from graftwork.registry.transfer.importer import import_source
from graftwork.registry.transfer.snapshots import materialise
from graftwork.registry.versions.version import Kind, Relation, Version
from graftwork.settings import Settings
from graftwork.testing.formats import llama_formats, write_peft

if TYPE_CHECKING:
    from tests.adapters.conftest import Family

SKILLS = Name.parse("team/skills")
MODULE = "model.layers.0.self_attn.q_proj"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def registry(home: Path, family: Family) -> Iterator[Registry]:
    """`team/base` with `team/attention` and `team/everything`; the alias `prod` is on the first."""
    with Registry.open(Settings(home=home)) as registry:
        on = import_source(registry, str(family.base), Name.parse("team/base")).name
        for name in ("attention", "everything"):
            import_source(registry, str(family.adapters[name]), Name("team", name), base=Ref(on), aliases=["prod"])
        yield registry


def members(*names: str) -> list[Member]:
    return [Member(name, Ref.parse(f"team/{name}")) for name in names]


def test_a_set_is_pinned_and_has_its_members_as_parents(registry: Registry, family: Family) -> None:
    pinned = [registry.catalog.resolve(f"team/{name}") for name in ("everything", "attention")]
    made = create_expert_set(registry, SKILLS, members("everything", "attention"), {"kind": "arrow", "top_k": 1})
    import_source(registry, str(family.adapters["mlp"]), Name("team", "attention"), base=Ref.parse("team/base"))
    assert (made.kind, made.base) == (Kind.EXPERT_SET, registry.catalog.resolve("team/base").digest)
    edges = registry.lineage.parents(made.digest)
    assert [(edge.parent, edge.relation) for edge in edges] == [
        *((version.digest, Relation.EXPERT) for version in pinned),
        (made.base, Relation.BASE),
    ]
    assert made.digest in {edge.child for edge in registry.lineage.children(pinned[0].digest)}
    same = [*members("everything"), Member("attention", Ref.parse("team/attention@v1"))]
    again = create_expert_set(registry, SKILLS, same, {"kind": "arrow", "top_k": 1})
    assert again.digest == made.digest
    layout = read_experts(materialise(registry, made))
    assert layout.members == tuple(version.digest for version in pinned)


def test_experts_of_the_sets_own_need_a_base(registry: Registry, tmp_path: Path) -> None:
    weights = tmp_path / "own.safetensors"
    a, b = torch.randn(2, 64), torch.randn(64, 2)
    save_file({f"experts.mine.{MODULE}.lora_A": a, f"experts.mine.{MODULE}.lora_B": b}, weights)
    own = [Member("mine", None, weight=-0.5)]
    with pytest.raises(InvalidRequest, match="name their base"):
        create_expert_set(registry, SKILLS, own, {"kind": "fixed"}, weights=weights)
    made = create_expert_set(
        registry, SKILLS, own, {"kind": "fixed"}, weights=weights, base=Ref.parse("team/base"), aliases=["prod"]
    )
    loaded = load_expert_set(materialise(registry, made), lambda digest: pytest.fail(digest))
    np.testing.assert_allclose(loaded.experts[0].modules[MODULE].delta(), -0.5 * (b @ a).numpy(), rtol=1e-5, atol=1e-5)
    assert registry.catalog.resolve("team/skills@prod") == made


def test_a_set_is_imported_as_a_folder(registry: Registry, tmp_path: Path) -> None:
    made = create_expert_set(registry, SKILLS, members("attention"), {"kind": "fixed"})
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / CONFIG_FILE).write_bytes((materialise(registry, made) / CONFIG_FILE).read_bytes())
    copied = import_source(registry, str(folder), Name.parse("team/copy"))
    assert copied.digest == made.digest
    with pytest.raises(InvalidRequest, match="is an expert set and not of kind adapter"):
        import_source(registry, str(folder), Name.parse("team/copy"), kind=Kind.ADAPTER)
    with pytest.raises(InvalidExpertSet, match=f"not a folder with an {CONFIG_FILE}"):
        import_source(registry, str(tmp_path), Name.parse("team/copy"), kind=Kind.EXPERT_SET)


def test_members_of_different_bases_or_kinds_are_refused(registry: Registry, family: Family, tmp_path: Path) -> None:
    other = import_source(registry, str(family.base), Name.parse("team/other"), kind=Kind.CHECKPOINT, base=None)
    stray = Name.parse("team/stray")
    import_source(registry, str(family.adapters["mlp"]), stray, base=Ref(other.name))
    with pytest.raises(InvalidExpertSet, match=r"team/attention@v1 and team/stray@v1 belong on different bases"):
        create_expert_set(registry, SKILLS, [*members("attention"), Member("stray", Ref(stray))], {})
    with pytest.raises(InvalidExpertSet, match=r"its member team/base@v1 is a base, not an adapter"):
        create_expert_set(registry, SKILLS, members("base"), {})
    with pytest.raises(NotFound):
        create_expert_set(registry, SKILLS, members("nobody"), {})
    dora = write_peft(family.base, tmp_path / "dora", llama_formats()["dora"], seed=1)
    import_source(registry, str(dora), Name.parse("team/dora"), base=Ref.parse("team/base"))
    with pytest.raises(InvalidExpertSet, match=r"its member team/dora@v1 has DoRA at model\.layers\.0"):
        create_expert_set(registry, SKILLS, members("dora"), {})
    assert registry.catalog.list(kind=Kind.EXPERT_SET) == []


DOCUMENT: dict[str, Any] = {"format": "graftwork-experts-1", "experts": [{"name": "a"}]}
A, B = f"experts.a.{MODULE}.lora_A", f"experts.a.{MODULE}.lora_B"
FACTORS = {A: torch.zeros(1, 4), B: torch.zeros(4, 1)}


@pytest.mark.parametrize(
    ("change", "tensors", "told"),
    [
        ({"format": "other"}, FACTORS, "format of its experts.json"),
        ({"more": 1}, FACTORS, "more of its experts.json"),
        ({"experts": []}, FACTORS, "experts of its experts.json"),
        ({"experts": [{"name": "a"}, {"name": "a"}]}, FACTORS, "same name"),
        ({"experts": [{"name": "a", "adapter": "acme/a"}]}, {}, "experts.0.adapter"),
        ({"experts": [{"name": "a", "deactivate": "8-x"}]}, FACTORS, "'8-x' is not understood"),
        ({"experts": [{"name": "a", "deactivate": "0,9-7"}]}, FACTORS, "'9-7' ends before it begins: expected 7-9"),
        ({"experts": [{"name": "a", "weight": float("inf")}]}, FACTORS, "experts.0.weight"),
        ({"router": {"kind": "magic"}}, FACTORS, "router.kind"),
        ({"router": {"kind": "arrow", "top_k": 0}}, FACTORS, "router.top_k"),
        ({"router": {"kind": "arrow", "temperature": 0}}, FACTORS, "router.temperature"),
        ({"router": {"kind": "fixed", "top_k": 1}}, FACTORS, "has no top_k"),
        ({"router": {"kind": "task-table"}}, FACTORS, "a task-table needs tasks"),
        ({"router": {"kind": "task-table", "tasks": {"t": [1, 2]}}}, FACTORS, "not one for each"),
        ({"router": {"kind": "task-table", "tasks": {"t[0]": [1]}}}, FACTORS, "a task's name"),
        ({"router": {"kind": "task-table", "tasks": ["t"]}}, FACTORS, "needs their table"),
        ({"router": {"kind": "linear"}}, FACTORS, "needs its weights"),
        ({"router": {"kind": "linear", "scope": "set"}}, FACTORS, "needs the granularity 'request'"),
        ({}, {}, "neither an adapter nor factors"),
        ({}, {A: FACTORS[A]}, "has no lora_B"),
        ({}, {**FACTORS, "stray": torch.zeros(1)}, "the tensor 'stray' has no meaning for a fixed router"),
        ({}, {**FACTORS, f"router.{MODULE}.weight": torch.zeros(1, 4)}, "has no meaning for a fixed router"),
        ({}, {**FACTORS, "scaling": torch.zeros(1, 1)}, "it has 1 dimensions"),
        ({}, {**FACTORS, "scaling": torch.zeros(1, dtype=torch.int32)}, "is I32; accepted are"),
        ({}, {**FACTORS, "experts.b.x.lora_A": torch.zeros(1, 4)}, "is of no expert"),
    ],
)
def test_a_malformed_set_is_refused_by_name(
    tmp_path: Path, change: dict[str, Any], tensors: dict[str, torch.Tensor], told: str
) -> None:
    (tmp_path / CONFIG_FILE).write_text(json.dumps(DOCUMENT | change))
    if tensors:
        save_file(tensors, tmp_path / WEIGHTS_FILE)
    with pytest.raises(InvalidExpertSet) as caught:
        read_experts(tmp_path)
    assert told in str(caught.value)


def test_layers_are_numbers_and_ranges() -> None:
    assert parse_layers("8-") == ((8, None),)
    assert parse_layers("0-3, 7") == ((0, 3), (7, 7))
    assert [layer_of(module) for module in (MODULE, "transformer.h.11.attn.c_attn", "lm_head")] == [0, 11, None]


def test_deactivated_layers_are_left_out(registry: Registry, family: Family) -> None:
    member = Member("everything", Ref.parse("team/everything"), deactivate="1-1,2-")
    made = create_expert_set(registry, SKILLS, [member], {})
    whole = load_lora(family.adapters["everything"])
    left = load_expert_set(materialise(registry, made), lambda _: whole).experts[0].modules
    assert left.keys() == {module for module in whole.modules if layer_of(module) in (0, None)}
    assert 0 < len(left) < len(whole.modules)


def test_a_task_stands_in_brackets_at_the_end() -> None:
    assert parse_selection("ns/set@prod[sum it]").task == "sum it"
    assert (str(parse_selection("ns/set").ref), parse_selection("ns/set").task) == ("ns/set", None)
    for text in ("ns/set[", "ns/set[]", "ns/set[a][b]", "ns/set[a]x", "[a]ns/set"):
        with pytest.raises((InvalidRequest, InvalidReference)):
            parse_selection(text)
    digests = {selection_digest("0" * 64, task) for task in (None, "a", "b")}
    assert len(digests) == 3
    assert "0" * 64 in digests


def graft(home: Path, *words: str) -> Any:
    """What a command says as JSON, or the one line that it fails with."""
    done = CliRunner().invoke(main, [*words, "--home", str(home), "--json"])
    return json.loads(done.stdout) if done.exit_code == 0 else done.stderr


def test_the_command_makes_what_the_function_makes(registry: Registry, home: Path) -> None:
    words = ["--member", "team/attention@prod*0.5", "--always", "rest=team/everything", "--deactivate", "rest=2-"]
    told = graft(home, "experts", "create", "team/cli", *words, "--router", "arrow", "--top-k", "1", "--alias", "prod")
    made = registry.catalog.resolve("team/cli@prod")
    assert (told["digest"], told["kind"]) == (made.digest, "expert_set")
    entries = [
        Member("attention", Ref.parse("team/attention"), 0.5),
        Member("rest", Ref.parse("team/everything"), always=True, deactivate="2-"),
    ]
    assert create_expert_set(registry, SKILLS, entries, {"kind": "arrow", "top_k": 1}).digest == made.digest


def test_the_command_tells_members_of_one_name_apart_and_reads_tasks(registry: Registry, home: Path) -> None:
    words = ["--member", "team/attention", "--member", "team/attention*-1", "--router", "task-table"]
    graft(home, "experts", "create", "team/cli", *words, "--task", "a=1,0", "--task", "b=0.5,-2")
    document = document_of(registry, registry.catalog.resolve("team/cli"))
    assert [entry.name for entry in document.experts] == ["attention-1", "attention-2"]
    assert document.router.tasks == {"a": [1.0, 0.0], "b": [0.5, -2.0]}


def document_of(registry: Registry, version: Version) -> Any:
    return read_experts(materialise(registry, version)).document


def test_the_command_imports_what_training_wrote(registry: Registry, home: Path, tmp_path: Path) -> None:
    parts = {"lora_A": (4, 64), "lora_B": (64, 4), "lora_router": (4, 64)}
    save_file(
        {f"base_model.model.{MODULE}.{part}.weight": torch.randn(shape) for part, shape in parts.items()},
        tmp_path / "adapter_model.safetensors",
    )
    (tmp_path / "adapter_config.json").write_text(json.dumps({"activate_r": 2, "lora_alpha": 8}))
    told = graft(home, "experts", "import", str(tmp_path), "--name", "team/smora", "--base", "team/base")
    made = registry.catalog.resolve("team/smora")
    assert (told["digest"], made.metadata["layout"]) == (made.digest, "SMoRA")
    assert (made.metadata["router"]["kind"], made.metadata["experts"]) == ("linear", {"smora": 1.0})  # type: ignore[index]
    router = document_of(registry, made).router
    assert (router.unit, router.top_k, router.gate_scale) == ("rank", 2, 2.0)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--member", "team/attention+team/everything"], "is several adapters"),
        (["--member", "team/attention", "--deactivate", "other=1"], "there is no expert 'other'"),
        (["--member", "team/attention", "--router", "task-table", "--task", "a=x"], "is not numbers"),
        (["--member", "team/attention", "--weights", "nowhere.safetensors"], "nothing at 'nowhere.safetensors'"),
        (["--member", "team/attention*x"], "--member: 'team/attention*x' is not REF or REF*WEIGHT"),
        (["--member", "team/attention", "--router", "linear"], "team/cli is not an expert set"),
        (["--member", "team/base"], "team/cli is not an expert set that can be used: its member team/base@v1"),
        (["--member", "team/attention", "--router", "arrow", "--top-k", "2"], "its top_k is 2, and it routes 1"),
        ([], "name at least one member"),
    ],
)
@pytest.mark.usefixtures("registry")
def test_the_command_says_what_is_wrong(home: Path, words: list[str], told: str) -> None:
    assert told in graft(home, "experts", "create", "team/cli", *words)
