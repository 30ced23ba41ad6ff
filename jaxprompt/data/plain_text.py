"""Templates as plain text: what is read where nothing is trained, or where several tasks share one input."""

from __future__ import annotations

from collections.abc import Mapping

from jaxprompt.data.template import Template
from jaxprompt.data.template_syntax import Slots, Text


def plain_text(template: Template, fields: Mapping[str, str], target: str | None = None) -> str:
    """The text that a template comes to.

    Args:
        template: one without virtual tokens, whose target, if it names one, stands at the end.
        fields: what its fields hold.
        target: what is written at the target's place, which is behind a space where the template does not say; None:
            nothing.

    Raises:
        ValueError: there are virtual tokens, the target is a mask in the text, or a field is missing.
    """
    if template.num_slots:
        raise ValueError(
            f"template {template.text!r} holds {template.num_slots} virtual tokens, which no text stands for; write "
            "one of words and fields"
        )
    if template.masked:
        raise ValueError(
            f"template {template.text!r} has its target as a mask in the text, and what follows a text cannot fill it; "
            "put {target} at the end, or leave it out"
        )
    text = ""
    for part in template.parts:
        if isinstance(part, Text):
            text += (" " if part.spaced and text else "") + part.render(fields)
        elif not isinstance(part, Slots) and target is not None:
            text += (" " if part.spaced and text else "") + target
    return text if target is None or template.target is not None else f"{text} {target}"
