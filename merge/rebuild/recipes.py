"""Recipes without some of their models: what is left of one, and whether that is still a merge."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from graftwork.errors import InvalidReference
from graftwork.merge.method import Method
from graftwork.merge.models.sources import HUB
from graftwork.merge.recipe.recipe import Recipe, references_of
from graftwork.merge.recipe.sections import Output
from graftwork.registry.refs import Ref
from graftwork.registry.versions.places import Place


class Pins:
    """The references of a recipe, and the versions of the registry that they meant when it was merged."""

    def __init__(self, parents: Sequence[Place]) -> None:
        self._parents = parents
        self.digests: dict[str, str] = {}
        """What each `ns/name@v3` of the pinned recipe means."""
        self.problem: str | None = None
        """Why a reference cannot be told to mean a version."""

    def pin(self, recipe: Recipe) -> Recipe:
        """The recipe with every reference to the registry pinned, and without where its result went."""
        pinned = recipe.with_references(lambda reference: "+".join(map(self._pinned, reference.split("+"))))
        kept = pinned.output.model_copy(update={"name": None, "aliases": ()})
        return pinned.model_copy(update={"output": kept if kept != Output() else Output()})

    def _pinned(self, reference: str) -> str:
        if reference.startswith(HUB):
            return reference
        try:
            ref = Ref.parse(reference)
        except InvalidReference:
            return self._refuse(reference, f"its recipe names {reference}, which is no version of the registry")
        found = {
            place.digest: place
            for place in self._parents
            if place.name.key == ref.name.key
            and (ref.number in (None, place.number))
            and (ref.number is not None or place.digest.startswith(ref.digest_prefix or ""))
        }
        if not found and (ref.number is not None or ref.digest_prefix is not None):
            return reference  # such as a tokenizer's donor: it means the same now as it did then
        if len(found) != 1:
            which = "which was not recorded as" if not found else "which may be more than one"
            return self._refuse(reference, f"its recipe names {reference}, {which} of the versions it was made of")
        place = next(iter(found.values()))
        self.digests[place.ref] = place.digest
        return place.ref

    def _refuse(self, reference: str, problem: str) -> str:
        self.problem = self.problem or problem
        return reference


def without(recipe: Recipe, refs: Collection[str]) -> Recipe | str:
    """The recipe without the models that are, or have merged in, one of `refs`; or why there is none.

    Nothing else of it changes: parameters are given at the models, and go with them.
    """

    def is_out(reference: str | None) -> bool:
        return reference is not None and not set(refs).isdisjoint(reference.split("+"))

    steps = []
    for step in recipe.steps:
        left = without(step, refs)
        if isinstance(left, str):
            return f"in its step {step.name}, {left}"
        steps.append(left)
    slices = []
    for part in recipe.slices:
        sources = tuple(source for source in part.sources if not is_out(source.model))
        if not sources:
            first, end = part.sources[0].layer_range
            return f"its layers {first} to {end - 1} come from {part.sources[0].model} alone"
        slices.append(part.model_copy(update={"sources": sources}))
    models = tuple(entry for entry in recipe.models if not is_out(entry.model))
    left = recipe.model_copy(update={"models": models, "slices": tuple(slices), "steps": tuple(steps)})
    return _needed(left, is_out) or left


def _needed(recipe: Recipe, is_out: Callable[[str | None], bool]) -> str | None:
    """What of a recipe still refers to what is left out, and cannot be without it."""
    bases = [recipe.base_model, *(part.base_model for part in recipe.slices)]
    for base in bases:
        if is_out(base):
            return f"its base_model is {base}"
    named = references_of(recipe)
    return next((f"its tokenizer takes from {reference}" for reference in named if is_out(reference)), None)


def too_few(recipe: Recipe, before: Recipe, method: Method) -> str | None:
    """Why what is left of the recipe `before` is no merge, if it is none."""
    left, had = _models(recipe), _models(before)
    if not left:
        return "nothing is left to merge"
    least, _ = method.models
    if len(left) < least:
        return f"{method.name} takes at least {least} models, and only {', '.join(left)} is left"
    has_base = method.takes_base and recipe.base_model is not None
    if len(left) == 1 and len(had) > 1 and method.space != "delta" and not has_base:
        return f"only {left[0]} is left, and {method.name} of one model is that model"
    return None


def told_of_weights(recipe: Recipe, method: Method) -> str:
    """What becomes of the weights of a recipe of which models were left out."""
    parameter = method.parameters.get("normalize")
    if "weight" not in method.parameters:
        return "the method weighs what is left by itself"
    normalised = recipe.parameters.get("normalize", parameter.default) if parameter is not None else False
    if normalised is True:
        return "the method divides the weights that are left by their sum"
    return "the weights that are left stay as they are"


def renamed(recipe: Recipe, names: Mapping[str, str]) -> Recipe:
    """The recipe with other references in the place of some."""
    return recipe.with_references(lambda reference: "+".join(names.get(part, part) for part in reference.split("+")))


def _models(recipe: Recipe) -> list[str]:
    """The models of the slice that has the fewest, or all where there are no slices."""
    if recipe.slices:
        fewest = min(recipe.slices, key=lambda part: len(part.sources))
        return [source.model for source in fewest.sources]
    return [entry.model for entry in recipe.models]
