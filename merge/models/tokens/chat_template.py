"""The chat template of the output, where the recipe asks for another than the tokenizer's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from graftwork.errors import InvalidRecipe, SourceNotFound
from graftwork.merge.models.sources import Finder, Origin
from graftwork.registry.formats.config import read_object

TEMPLATE_FILE = "chat_template.jinja"
TOKENIZER_CONFIG = "tokenizer_config.json"
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}"
    "{{ message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ ' ' + message['content'] }}{{ eos_token }}"
    "{% elif message['role'] == 'user' %}{{ ' [INST] ' }}"
    "{% if loop.index0 == 1 and messages[0]['role'] == 'system' %}{{ messages[0]['content'] + '\\n\\n' }}{% endif %}"
    "{{ message['content'] + ' [/INST]' }}{% endif %}{% endfor %}"
)
ALPACA = (
    "{% if messages[0]['role'] != 'system' %}{{ 'Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\\n\\n' }}{% endif %}{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '### Instruction:\\n' + message['content'] }}"
    "{% elif message['role'] == 'assistant' %}{{ '### Response:\\n' + message['content'] }}{{ eos_token }}"
    "{% else %}{{ message['content'] }}{% endif %}{{ '\\n\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Response:\\n' }}{% endif %}"
)
EXAONE = (
    "{% if messages[0]['role'] != 'system' %}{{ '[|system|][|endofturn|]\\n' }}{% endif %}{% for message in messages %}"
    "{{ '[|' + message['role'] + '|]' + message['content'] }}"
    "{% if message['role'] != 'user' %}{{ '[|endofturn|]' }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[|assistant|]' }}{% endif %}"
)
BUILT_IN = {"alpaca": ALPACA, "chatml": CHATML, "exaone": EXAONE, "llama3": LLAMA3, "mistral": MISTRAL}
"""The formats that mergekit has names for, as the models' own authors describe them."""


def find_template(wanted: str, models: Sequence[Origin], finder: Finder) -> str | None:
    """The template for `chat_template: wanted`: a template's text, a name in `BUILT_IN`, a model, or `auto`.

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
    try:
        template = template_of(finder.find(wanted))
    except SourceNotFound:
        reason = (
            f"it is {wanted!r}; accepted are auto, {', '.join(BUILT_IN)}, a template's text, or a model that has one"
        )
        raise InvalidRecipe(where="chat_template", reason=reason) from None
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
