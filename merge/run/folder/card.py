"""The model card of a merged model: a README.md that the Hub understands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import yaml

from graftwork import __version__
from graftwork.merge.plan.plan import Plan

if TYPE_CHECKING:
    from graftwork.merge.plan.adapter_plan import AdapterPlan

RECIPE_FILE = "recipe.yaml"
CARD_FILE = "README.md"


def model_card(plan: Plan | AdapterPlan) -> str:
    """The card: front matter with the parents, one paragraph, a table of the models, the recipe."""
    parents = [origin.public_name for origin in plan.models]
    if plan.base is not None:
        parents.insert(0, plan.base.public_name)
    front = {
        "base_model": list(dict.fromkeys(parents)),
        "base_model_relation": "merge",
        "library_name": "transformers" if isinstance(plan, Plan) else "peft",
        "tags": ["graftwork", "merge", plan.method.name],
    }
    what = "model" if isinstance(plan, Plan) else "adapter"
    base = f" on the base `{plan.base.public_name}`" if plan.base is not None else ""
    return "\n".join(
        [
            "---",
            yaml.safe_dump(front, sort_keys=False).rstrip(),
            "---",
            f"# Merged {what}",
            "",
            f"This {what} was merged with [{plan.method.name}]({plan.method.cites}){base} by Graftwork {__version__}.",
            "",
            plan.method.summary,
            "",
            *_models_table(plan),
            "",
            "```yaml",
            plan.recipe.as_yaml().rstrip(),
            "```",
            "",
        ]
    )


def _models_table(plan: Plan | AdapterPlan) -> Sequence[str]:
    rows = [
        f"| `{origin.public_name}` | {_inline(entry.parameters)} |"
        for origin, entry in zip(plan.models, plan.entries, strict=True)
    ]
    return ["| model | parameters |", "|---|---|", *rows]


def _inline(parameters: dict[str, Any]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in parameters.items()) or "as the recipe says for all"
