"""The chat template of the output, where the recipe asks for another than the tokenizer's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from graftwork.errors import InvalidRecipe
from graftwork.merge.models.sources import Finder, Origin
from graftwork.registry.formats.config import read_object

TEMPLATE_FILE = "chat_template.jinja"
TOKENIZER_CONFIG = "tokenizer_config.json"
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
BUILT_IN = {"chatml": CHATML}
NOT_BUILT_IN = frozenset({"alpaca", "exaone", "llama3", "mistral"})
"""Names that mergekit knows, and that are not here."""


def find_template(wanted: str, models: Sequence[Origin], finder: Finder) -> str | None:
    """The template for `chat_template: wanted`: a template's text, `chatml`, a model, or `auto`.

    auto is the template that most of `models` have, the first of them in a draw; None when none has one. Raises
    InvalidRecipe for a model without a template, and what finding a model raises.
    """
    if wanted == "auto":
        found = [template.strip() for template in map(template_of, models) if template]
        return Counter(found).most_common(1)[0][0] if found else None
    if "{" in wanted:
        return wanted
    if wanted in BUILT_IN:
        return BUILT_IN[wanted]
    if wanted in NOT_BUILT_IN:
        reason = f"the template {wanted} is not built in; give its text, or a model that has it"
        raise InvalidRecipe(where="chat_template", reason=reason)
    template = template_of(finder.find(wanted))
    if template is None:
        raise InvalidRecipe(where="chat_template", reason=f"the model {wanted} has no chat template")
    return template


def template_of(origin: Origin) -> str | None:
    """The chat template that comes with a model's tokenizer; of several, the one called default."""
    if (origin.root / TEMPLATE_FILE).is_file():
        return (origin.root / TEMPLATE_FILE).read_text(encoding="utf-8")
    path = origin.root / TOKENIZER_CONFIG
    template = read_object(path, TOKENIZER_CONFIG).get("chat_template") if path.is_file() else None
    if isinstance(template, list):
        named = {entry["name"]: entry["template"] for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    return template if isinstance(template, str) and template else None
