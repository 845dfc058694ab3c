"""`graft demo`: train a family of small models, merge them, serve them, and swap an adapter under load."""

from __future__ import annotations

import shlex
import shutil
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from transformers.utils import logging as transformers_logging

from graftwork.api.application.app import create_app
from graftwork.api.application.server import running
from graftwork.demo.client import Client
from graftwork.demo.models import RegisteredFamily, merge_all, register, train_or_reuse
from graftwork.demo.scenes import show_batch, show_swap
from graftwork.demo.serving import Batch, Swap, ask_together, move_under_load
from graftwork.demo.stages import stages
from graftwork.demo.table import Accuracies, measure, render
from graftwork.errors import OperationFailed
from graftwork.registry.catalog.aliases import ANY
from graftwork.registry.refs import Name, Ref
from graftwork.registry.registry import Registry
from graftwork.registry.transfer.importer import import_source
from graftwork.registry.transfer.snapshots import materialise
from graftwork.registry.versions.version import Version
from graftwork.settings import Settings, load_settings
from graftwork.testing.family import FamilyPlan
from graftwork.testing.skills import SHORT, Example, Skill

PROMPTS = 200
"""Test prompts of each skill behind the table."""
HELPER, ALIAS = "demo/helper", "prod"
SWAP_PROMPTS = 8
"""Prompts of each skill that the clients of the moving alias ask over and over."""
PROMOTED = "lora-cat"
"""The merge that takes over from the first skill's adapter when the alias moves."""


@dataclass(frozen=True, slots=True)
class Models:
    """What is registered when the first half is over, and what the models can do."""

    family: RegisteredFamily
    merged: dict[str, Version]
    """By the name of the merge."""
    accuracies: Accuracies


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the demo measured and was answered."""

    accuracies: Accuracies
    batch: Batch
    swap: Swap


def run(
    home: Path | None = None,
    *,
    seed: int = 0,
    fresh: bool = False,
    serve: bool = False,
    plan: FamilyPlan | None = None,
    prompts: int = PROMPTS,
    console: Console | None = None,
) -> Outcome:
    """Run the whole demo in the registry at `home`, by default `demo` in the user's data folder.

    seed:    of the training
    fresh:   train even if the same family was trained here before
    serve:   leave the server running until Ctrl-C
    plan:    how the family is trained, instead of the plan for `seed`
    prompts: test prompts of each skill

    Raises OperationFailed when a request fails, and what importing, merging and serving raise.
    """
    began = time.perf_counter()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    settings = load_settings(home=home or load_settings().home / "demo")
    console = console or Console(stderr=True, highlight=False)
    demo = _Demo(settings, plan or FamilyPlan(seed=seed), prompts, console)
    with Registry.open(settings) as registry:
        models = demo.make_models(registry, fresh=fresh)
        helpers = demo.register_helper(registry, models)
    with running(create_app(settings), host=settings.host) as url:
        client = Client(url)
        batch = demo.ask_every_adapter(client, models.family)
        swap = demo.swap(client, helpers)
        demo.say_what_next(time.perf_counter() - began, url if serve else None)
        if serve:
            with suppress(KeyboardInterrupt):
                threading.Event().wait()
    return Outcome(models.accuracies, batch, swap)


@dataclass(frozen=True, slots=True)
class _Demo:
    settings: Settings
    plan: FamilyPlan
    prompts: int
    console: Console

    def make_models(self, registry: Registry, *, fresh: bool) -> Models:
        """Train, register, merge, measure; print the table."""
        home = self.settings.home
        self._say(f"[bold]Graftwork demo[/] in {escape(str(home))}")
        with stages(self.console) as progress:
            family, reused = train_or_reuse(home / "family", self.plan, fresh=fresh, progress=progress)
            if reused:
                self._say("[green]✓[/] the family was trained here before (--fresh trains it again)")
            registered = register(registry, family, progress)
            merged = merge_all(registry, self.settings, registered, home / "recipes", progress)
            folders = {name: materialise(registry, version) for name, version in merged.items()}
            accuracies = measure(family, folders, self.plan.skills, prompts=self.prompts, progress=progress)
        self._say(f"  {_sizes(registered)}\n")
        self.console.print(render(accuracies))
        return Models(registered, merged, accuracies)

    def register_helper(self, registry: Registry, models: Models) -> tuple[Version, Version]:
        """Two versions of one artifact: the first skill's adapter, and all adapters merged. `prod` is at the first."""
        sources = (next(iter(models.family.adapters.values())), models.merged[PROMOTED])
        first, second = (
            import_source(
                registry, str(materialise(registry, source)), Name.parse(HELPER), base=Ref.parse(models.family.base.ref)
            )
            for source in sources
        )
        registry.aliases.set(first.name, ALIAS, first.digest, expected=ANY, actor="demo", reason="the demo begins")
        return first, second

    def ask_every_adapter(self, client: Client, family: RegisteredFamily) -> Batch:
        """One request an adapter and one to the base, all at once; asked twice, for the first time loads the models."""
        examples = {skill.name: _longer_words(skill, 1, seed=1)[0] for skill in self.plan.skills}
        questions = [(family.adapters[skill].ref, example.prompt) for skill, example in examples.items()]
        questions.append((family.base.ref, questions[0][1]))
        loading = ask_together(client, questions)
        batch = ask_together(client, questions)
        self._title("Every adapter in one batch, from one server and one copy of the base")
        show_batch(self.console, batch, dict(examples.values()))
        self._say(
            f"  {len(questions)} requests sent at once: {loading.seconds:.2f} s the first time, with loading; "
            f"{1000 * batch.seconds:.0f} ms the second time"
        )
        return batch

    def swap(self, client: Client, helpers: tuple[Version, Version]) -> Swap:
        """Move the alias to the second helper while clients keep asking for whatever it points at."""
        first, second = helpers
        by_skill = [_longer_words(skill, SWAP_PROMPTS, seed=2) for skill in self.plan.skills]
        answers = dict(chain.from_iterable(zip(*by_skill, strict=True)))
        swap = move_under_load(
            client,
            f"{HELPER}@{ALIAS}",
            list(answers),
            lambda: client.move_alias(HELPER, ALIAS, second.digest, expected=first.digest, reason="knows every skill"),
        )
        _check(swap, first, second)
        self._title(f"The alias {HELPER}@{ALIAS} moves while requests are in flight")
        self._say(f"  v{first.number} is the {self.plan.skills[0].name} adapter, v{second.number} all of them merged")
        show_swap(self.console, swap, answers, {helper.digest: f"v{helper.number}" for helper in helpers})
        return swap

    def say_what_next(self, seconds: float, url: str | None) -> None:
        """Commands to copy."""
        home = escape(shlex.quote(str(self.settings.home)))
        graft = "graft" if shutil.which("graft") else escape(shlex.quote(sys.argv[0]))
        self._title(f"All of this took {seconds:.0f} s. Try next:")
        for command in (
            f"ls --home {home}",
            f"lineage demo/ties-lines --home {home}",
            f"merge {home}/recipes/ties-lines.yaml --home {home}",
        ):
            self._say(f"  {graft} {command}")
        if url is None:
            self._say(f"  {graft} serve --home {home}")
        request = '{"model": "demo/helper@prod", "prompt": "sort banana=", "temperature": 0}'
        where = url or f"http://{self.settings.host}:{self.settings.port}"
        self._say(f"  curl {where}/v1/completions -H 'Content-Type: application/json' -d '{request}'")
        if url is not None:
            self._say(f"\nServing on {url} until Ctrl-C")

    def _title(self, text: str) -> None:
        self._say(f"\n[bold]{text}[/]")

    def _say(self, text: str) -> None:
        self.console.print(text, soft_wrap=True)


def _longer_words(skill: Skill, count: int, *, seed: int) -> list[Example]:
    """Test examples of the kind that the base has not learned to answer."""
    longer = (example for example in skill.examples(8 * count, split="test", seed=seed) if len(example.answer) > SHORT)
    return list(islice(longer, count))


def _check(swap: Swap, first: Version, second: Version) -> None:
    """Raise OperationFailed unless everything answered before the move was v1's and everything sent after it v2's."""
    for replies, version in ((swap.before, first), (swap.after, second)):
        wrong = [reply for reply in replies if reply.version != version.digest]
        if wrong:
            reason = f"{len(wrong)} requests were answered by {wrong[0].version} instead of {version.digest}"
            raise OperationFailed(what=f"moving {HELPER}@{ALIAS}", reason=reason)


def _sizes(family: RegisteredFamily) -> str:
    fine_tune, adapter = next(iter(family.fine_tunes.values())), next(iter(family.adapters.values()))
    sizes = (("base", family.base), ("a fine-tune", fine_tune), ("an adapter", adapter))
    return ", ".join(f"{what} {version.size / 1e6:.1f} MB" for what, version in sizes)
