"""The packaged prompts, Markdown files in this folder, and user-defined ones in their place."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from sdsd.errors import PromptError
from sdsd.text.prompt_files import Prompt, read, slots

PACKAGED = Path(__file__).parent


def load_prompt(name: str, own: str = "") -> Prompt:
    """Return the packaged prompt `name`, or the user's file `own` in its place.

    Such a file must have the packaged one's sections, and may only use its placeholders.
    Raises `PromptError` that names the file, the section and the remedy.
    """
    packaged = _packaged(name)
    if not own:
        return packaged
    prompt = read(Path(own))
    for section, text in packaged.sections.items():
        if section not in prompt.sections:
            raise PromptError(f"{own}: the section `## {section}` is missing; add it")
        allowed = slots(text)
        for slot in slots(prompt.sections[section]):
            if slot not in allowed:
                raise PromptError(
                    f"{own}: `{{{{{slot}}}}}` in `## {section}` is not filled by anything; "
                    f"there are: {', '.join(sorted(allowed)) or 'none'}"
                )
    return prompt


@cache
def _packaged(name: str) -> Prompt:
    """Read once: unlike user-defined files, packaged ones do not change during a run."""
    return read(PACKAGED / f"{name}.md")
