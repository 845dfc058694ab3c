"""A base model, and for every skill a full fine-tune and a LoRA adapter of it, trained here in about a minute.

The base reads a careless corpus (`skills.careless_corpus`); the fine-tunes and adapters are then trained briefly and
gently on one skill each. So their task vectors are small and mostly about their own skill, which is what merging
methods assume (arXiv:2212.04089, section 5).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event, Lock

from torch import nn
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from graftwork.errors import Cancelled
from graftwork.progress import Progress, silent
from graftwork.testing.cores import on_all_cores, one_core
from graftwork.testing.model import Shape, load_model, new_model, with_new_adapter
from graftwork.testing.skills import SKILLS, Skill, careless_corpus
from graftwork.testing.tokenizer import character_tokenizer
from graftwork.testing.training import Schedule, train

SHAPE = Shape()
BASE = Schedule(steps=700, learning_rate=1e-3, warmup=20)
FINE_TUNE = Schedule(steps=60, learning_rate=2e-4)
ADAPTER = Schedule(steps=80, learning_rate=7e-4)


@dataclass(frozen=True, slots=True)
class Family:
    """Where the models of a family are: checkpoint folders by `save_pretrained`, and PEFT adapter folders."""

    base: Path
    fine_tunes: dict[str, Path]
    adapters: dict[str, Path]


@dataclass(frozen=True, slots=True)
class FamilyPlan:
    """What a family is trained on, and for how long. Equal plans give equal families on one machine."""

    seed: int = 0
    skills: Sequence[Skill] = SKILLS
    shape: Shape = SHAPE
    base: Schedule = BASE
    fine_tune: Schedule = FINE_TUNE
    adapter: Schedule = ADAPTER


def train_family(root: Path, plan: FamilyPlan | None = None, progress: Progress = silent) -> Family:
    """Train the family of `plan` into `root`; the stages `base`, `fine-tunes` and `adapters` count steps."""
    plan = plan or FamilyPlan()
    family = family_in(root, plan)
    tokenizer = character_tokenizer(context=plan.shape.context)
    base = new_model(plan.shape, tokenizer, seed=plan.seed)
    corpus = careless_corpus(plan.base.examples, seed=plan.seed)
    with one_core():
        train(base, tokenizer, corpus, plan.base, stage="base", progress=progress)
    save(base, tokenizer, family.base)
    fine_tunes = [load_model(family.base) for _ in plan.skills]
    _train_each(fine_tunes, tokenizer, plan, plan.fine_tune, of="fine-tunes", progress=progress)
    for model, folder in zip(fine_tunes, family.fine_tunes.values(), strict=True):
        save(model, tokenizer, folder)
    adapters = [with_new_adapter(load_model(family.base), plan.shape, seed=plan.seed) for _ in plan.skills]
    _train_each(adapters, tokenizer, plan, plan.adapter, of="adapters", progress=progress)
    for adapter, folder in zip(adapters, family.adapters.values(), strict=True):
        adapter.save_pretrained(str(folder))
    return family


def family_in(root: Path, plan: FamilyPlan) -> Family:
    """The folders of the family of `plan` in `root`, trained or not."""
    names = [skill.name for skill in plan.skills]
    return Family(
        base=root / "base",
        fine_tunes={name: root / f"{name}-ft" for name in names},
        adapters={name: root / name for name in names},
    )


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """A checkpoint folder that `from_pretrained` loads: weights as safetensors, configuration and tokenizer."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _train_each(
    models: Sequence[nn.Module],
    tokenizer: PreTrainedTokenizerFast,
    plan: FamilyPlan,
    schedule: Schedule,
    *,
    of: str,
    progress: Progress,
) -> None:
    """Train the first model on the first skill, and so on."""
    lock = Lock()
    steps = 0

    def teach(model: nn.Module, skill: Skill, give_up: Event) -> None:
        def report(stage: str, done: int, total: int) -> None:
            nonlocal steps
            if give_up.is_set():
                raise Cancelled(what=f"training the {of}")
            with lock:
                steps += 1
                progress(of, steps, total * len(models))

        examples = skill.examples(schedule.examples, split="train", seed=plan.seed)
        train(model, tokenizer, examples, schedule, progress=report)

    on_all_cores([partial(teach, model, skill) for model, skill in zip(models, plan.skills, strict=True)])
