"""`graft experts`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import click

from graftwork.adapters.experts.mixture import Mixture, Part, parse_mixture
from graftwork.adapters.experts.published import read_published
from graftwork.api.schemas.versions import VersionOut
from graftwork.cli.options import json_option
from graftwork.cli.place import local_option
from graftwork.cli.render import count, print_json, say
from graftwork.errors import InvalidRequest
from graftwork.registry.formats.experts import Router
from graftwork.registry.refs import Name, Ref
from graftwork.registry.registry import Registry
from graftwork.registry.transfer.expert_sets import Member, create_expert_set
from graftwork.registry.transfer.importer import import_source
from graftwork.registry.versions.version import Kind
from graftwork.settings import load_settings


def choices(field: str) -> click.Choice[str]:
    """The values that a field of a router may have."""
    return click.Choice(list(Router.model_json_schema()["properties"][field]["enum"]))


@click.group()
def experts() -> None:
    """Make sets of adapters that are routed and served as one model.

    \b
    Example:
        graft experts create acme/skills --member acme/sum --member acme/code --router arrow --top-k 1
    """


@experts.command()
@click.argument("name")
@click.option(
    "--member",
    "members",
    multiple=True,
    metavar="[EXPERT=]REF[*WEIGHT]",
    help="An adapter that is an expert, named after it unless EXPERT is given; may be repeated.",
)
@click.option(
    "--always", multiple=True, metavar="[EXPERT=]REF[*WEIGHT]", help="An adapter that is added to every token."
)
@click.option("--own", multiple=True, metavar="EXPERT", help="An expert whose factors are in --weights.")
@click.option("--deactivate", multiple=True, metavar="EXPERT=LAYERS", help="Layers it leaves alone: 8- or 0-3,7.")
@click.option("--router", "kind", type=choices("kind"), default="fixed", show_default=True, help="How it is routed.")
@click.option("--granularity", type=choices("granularity"), help="Route each token [default], or each request once.")
@click.option("--unit", type=choices("unit"), help="Route experts [default], or single ranks of them.")
@click.option("--scope", type=choices("scope"), help="A router for each module [default], or one for the set.")
@click.option("--activation", type=choices("activation"), help="From scores to weights [default: softmax].")
@click.option("--top-k", type=click.IntRange(1), metavar="K", help="Keep the K largest weights [default: all].")
@click.option("--temperature", type=float, help="Divides the scores [default: 1].")
@click.option("--renormalise/--no-renormalise", default=None, help="Whether the kept weights add up to 1 [default].")
@click.option("--gate-scale", type=float, help="Multiplies the weights [default: 1].")
@click.option("--bias", type=choices("bias"), help="What a router's bias is added to [default: logits].")
@click.option("--combine", type=choices("combine"), help="Add the experts' outputs [default], or mix their factors.")
@click.option("--task", "tasks", multiple=True, metavar="TASK[=W,W,...]", help="A task and the weights of its experts.")
@click.option(
    "--weights",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A .safetensors file of routers, task tables, output scaling or factors.",
)
@click.option("--base", help="The registered base it belongs on [default: that of its members].")
@click.option("--alias", "aliases", multiple=True, help="Point this alias at it; may be repeated.")
@local_option
@json_option
def create(
    name: str,
    members: tuple[str, ...],
    always: tuple[str, ...],
    own: tuple[str, ...],
    deactivate: tuple[str, ...],
    tasks: tuple[str, ...],
    weights: Path | None,
    base: str | None,
    aliases: tuple[str, ...],
    home: Path | None,
    as_json: bool,
    **router: Any,
) -> None:
    """Register an expert set as NAME, its members pinned to what they are now.

    What each option means is in docs/experts.md.

    \b
    Example:
        graft experts create acme/skills --member acme/sum@prod --member acme/code --router arrow --top-k 1
    """
    given = {field: value for field, value in router.items() if value is not None}
    if tasks:
        given["tasks"] = _tasks(tasks)
    chosen = [*(_member(text, always=False) for text in members), *(_member(text, always=True) for text in always)]
    chosen += [Member(expert, None) for expert in own]
    with Registry.open(load_settings(home=home)) as registry:
        version = create_expert_set(
            registry,
            Name.parse(name),
            _deactivated(_told_apart(chosen), deactivate),
            given,
            weights=weights,
            base=Ref.parse(base) if base else None,
            aliases=aliases,
        )
    if as_json:
        print_json(VersionOut.of(version))
    else:
        say(f"{version.ref} (expert set, {count(len(chosen), 'expert')}) {version.digest[:12]}")


@experts.command("import")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--name", required=True, help="NAMESPACE/NAME to register it under.")
@click.option("--base", required=True, help="The registered base it belongs on, as NAME, NAME@ALIAS or NAME@v3.")
@click.option("--alias", "aliases", multiple=True, help="Point this alias at it; may be repeated.")
@local_option
@json_option
def import_(source: Path, name: str, base: str, aliases: tuple[str, ...], home: Path | None, as_json: bool) -> None:
    """Register a trained mixture of LoRA experts: SMoRA, MoLA, or PEFT's Poly and MHR.

    SOURCE is the folder that training wrote, its weights as adapter_model.safetensors.

    \b
    Example:
        graft experts import ./mola --name acme/mola --base acme/llama
    """
    with Registry.open(load_settings(home=home)) as registry, registry.blobs.scratch() as scratch:
        published = read_published(source)
        folder = scratch / "expert-set"
        folder.mkdir()
        published.write(folder)
        version = import_source(
            registry,
            folder,
            Name.parse(name),
            kind=Kind.EXPERT_SET,
            base=Ref.parse(base),
            aliases=aliases,
            metadata={"layout": published.layout},
            move=True,
        )
    if as_json:
        print_json(VersionOut.of(version))
    else:
        many = count(len(published.document["experts"]), "expert")
        say(f"{version.ref} (expert set, {published.layout}, {many}) {version.digest[:12]}")


def _member(text: str, *, always: bool) -> Member:
    expert, equals, part = text.rpartition("=")
    try:
        mixture = parse_mixture(part) or Mixture((Part(Ref.parse(part), 1.0),))
    except InvalidRequest:
        raise InvalidRequest(field="--member", reason=f"{part!r} is not REF or REF*WEIGHT, as in acme/a*0.5") from None
    if len(mixture.parts) > 1:
        raise InvalidRequest(field="--member", reason=f"{part!r} is several adapters; repeat the option for each")
    only = mixture.parts[0]
    return Member(expert if equals else "", only.ref, only.weight, always)


def _told_apart(members: list[Member]) -> list[Member]:
    """Members with names: those given, else the artifact's, numbered where several are the same."""
    wanted = [member.name or _plain(member) for member in members]
    many, seen = Counter(wanted), Counter[str]()
    named = []
    for member, name in zip(members, wanted, strict=True):
        seen[name] += 1
        unique = name if member.name or many[name] == 1 else f"{name}-{seen[name]}"
        named.append(Member(unique, member.ref, member.weight, member.always))
    return named


def _plain(member: Member) -> str:
    return member.ref.name.name.replace(".", "-") if member.ref is not None else ""


def _deactivated(members: list[Member], options: tuple[str, ...]) -> list[Member]:
    layers = dict(_pair(option, "--deactivate", "EXPERT=LAYERS") for option in options)
    if unknown := layers.keys() - {member.name for member in members}:
        known = ", ".join(member.name for member in members)
        raise InvalidRequest(field="--deactivate", reason=f"there is no expert {min(unknown)!r}; there is {known}")
    return [Member(each.name, each.ref, each.weight, each.always, layers.get(each.name)) for each in members]


def _tasks(options: tuple[str, ...]) -> dict[str, list[float]] | list[str]:
    """Tasks with weights, or their names alone, in the order of the rows of the tables in the weights."""
    if not any("=" in option for option in options):
        return list(options)
    tasks = {}
    for option in options:
        task, numbers = _pair(option, "--task", "TASK=W,W,...")
        try:
            tasks[task] = [float(number) for number in numbers.split(",")]
        except ValueError:
            raise InvalidRequest(field="--task", reason=f"{numbers!r} is not numbers joined by commas") from None
    return tasks


def _pair(option: str, field: str, expected: str) -> tuple[str, str]:
    left, equals, right = option.partition("=")
    if not (left and equals and right):
        raise InvalidRequest(field=field, reason=f"{option!r} is not understood: expected {expected}")
    return left, right
