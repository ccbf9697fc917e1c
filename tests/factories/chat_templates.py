"""Chat templates of the model families in compact form, rendered as a server renders them."""

from __future__ import annotations

from functools import cache

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from sdsd.text.chat_format import Template, cut, marked
from sdsd.types import Message

ALTERNATE = """
{%- for m in loop_messages -%}
  {%- if (m.role == 'user') != (loop.index0 % 2 == 0) -%}
    {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') -}}
  {%- endif -%}
{%- endfor -%}
"""

SPLIT_SYSTEM = """
{%- if messages[0].role == 'system' -%}
  {%- set system = messages[0].content -%}{%- set loop_messages = messages[1:] -%}
{%- else -%}
  {%- set system = '' -%}{%- set loop_messages = messages -%}
{%- endif -%}
"""

LLAMA_2 = f"""{SPLIT_SYSTEM}{ALTERNATE}
{{%- for m in loop_messages -%}}
  {{%- set content = m.content -%}}
  {{%- if loop.index0 == 0 and system -%}}
    {{%- set content = '<<SYS>>\n' + system + '\n<</SYS>>\n\n' + m.content -%}}
  {{%- endif -%}}
  {{%- if m.role == 'user' -%}}
    {{{{- bos_token + '[INST] ' + content.strip() + ' [/INST]' -}}}}
  {{%- else -%}}
    {{{{- ' ' + content.strip() + ' ' + eos_token -}}}}
  {{%- endif -%}}
{{%- endfor -%}}"""

LLAMA_3 = """
{%- for m in messages -%}
  {%- set content = '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n'
                    + m.content | trim + '<|eot_id|>' -%}
  {{- (bos_token if loop.index0 == 0 else '') + content -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' -}}
{%- endif -%}"""

# The first user turn opens with the system text.
MISTRAL_FIRST = f"""{SPLIT_SYSTEM}{ALTERNATE}{{{{- bos_token -}}}}
{{%- for m in loop_messages -%}}
  {{%- if m.role == 'user' -%}}
    {{%- set brief = system + '\n\n' if loop.first and system else '' -%}}
    {{{{- ' [INST] ' + brief + m.content + ' [/INST]' -}}}}
  {{%- else -%}}
    {{{{- ' ' + m.content + eos_token -}}}}
  {{%- endif -%}}
{{%- endfor -%}}"""

# The last user turn opens with the system text, so it wanders as the conversation grows.
MISTRAL_LAST = MISTRAL_FIRST.replace("loop.first", "loop.last")

# The oldest one knows no system turn.
MISTRAL_BARE = """{{- bos_token -}}
{%- for m in messages -%}
  {%- if (m.role == 'user') != (loop.index0 % 2 == 0) -%}
    {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') -}}
  {%- endif -%}
  {%- if m.role == 'user' -%}
    {{- '[INST] ' + m.content + ' [/INST]' -}}
  {%- elif m.role == 'assistant' -%}
    {{- m.content + eos_token -}}
  {%- else -%}
    {{- raise_exception('Only user and assistant roles are supported!') -}}
  {%- endif -%}
{%- endfor -%}"""

CHATML = """
{%- for m in messages -%}
  {{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"""

QWEN_2_5 = (
    """
{%- if messages[0].role != 'system' -%}
  {{- '<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.'
      '<|im_end|>\n' -}}
{%- endif -%}"""
    + CHATML
)

GEMMA = """{{- bos_token -}}
{%- if messages[0].role == 'system' -%}
  {{- raise_exception('System role not supported') -}}
{%- endif -%}
{%- for m in messages -%}
  {%- if (m.role == 'user') != (loop.index0 % 2 == 0) -%}
    {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') -}}
  {%- endif -%}
  {%- set role = 'model' if m.role == 'assistant' else m.role -%}
  {{- '<start_of_turn>' + role + '\n' + m.content | trim + '<end_of_turn>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<start_of_turn>model\n' -}}{%- endif -%}"""

# Plain words for headers, as the first instruction-tuned models had them.
ALPACA = """
{%- for m in messages -%}
  {%- if m.role == 'system' -%}{{- m.content + '\n\n' -}}
  {%- elif m.role == 'user' -%}{{- '### Instruction:\n' + m.content + '\n\n' -}}
  {%- else -%}{{- '### Response:\n' + m.content + eos_token + '\n\n' -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '### Response:\n' -}}{%- endif -%}"""


def render(source: str, messages: tuple[Message, ...]) -> str:
    """The messages in a template's format, as a server renders them."""

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    env.globals["raise_exception"] = refuse
    chat = [{"role": m.role, "content": m.content} for m in messages]
    return env.from_string(source).render(
        messages=chat, bos_token="<s>", eos_token="</s>", add_generation_prompt=True
    )


def learn(source: str, *, system: bool) -> Template | None:
    """The template as a server's rendering of the marked messages shows it; None if it refuses."""
    try:
        return cut(render(source, marked(system=system)))
    except jinja2.TemplateError:
        return None


@cache
def learnt(source: str) -> tuple[Template, bool]:
    """The template by the first of the two forms that shows it, and whether it takes a system."""
    template = learn(source, system=True)
    if template is not None:
        return template, True
    template = learn(source, system=False)
    assert template is not None
    return template, False


# Template, does it take a system turn, what ends the user's turn, what ends the agent's.
FAMILIES = {
    "llama-2": (LLAMA_2, True, "[/INST]", "</s>"),
    "llama-3": (LLAMA_3, True, "<|eot_id|>", "<|eot_id|>"),
    "mistral-first": (MISTRAL_FIRST, True, "[/INST]", "</s>"),
    "mistral-last": (MISTRAL_LAST, False, "[/INST]", "</s>"),
    "mistral-bare": (MISTRAL_BARE, False, "[/INST]", "</s>"),
    "chatml": (CHATML, True, "<|im_end|>", "<|im_end|>"),
    "qwen2.5": (QWEN_2_5, True, "<|im_end|>", "<|im_end|>"),
    "gemma": (GEMMA, False, "<end_of_turn>", "<end_of_turn>"),
    "alpaca": (ALPACA, True, "### Response:", "</s>"),
}
