"""The keys of one model: where it is, how it is reached, and what it costs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from sdsd.config.fields import (
    Amount,
    Count,
    FileName,
    Natural,
    Seconds,
    Section,
    execution,
    identity,
)

DEFAULT_MODEL = "qwen2.5-coder-1.5b"
ThinkingMode = Literal["auto", "off", "on"]

# One paragraph for each key, laid out by hand.
# fmt: off


class PriceConfig(Section, frozen=True):
    """Prices per million tokens, in any one currency: for estimates, cost reports and budgets."""

    prompt: Annotated[Amount, execution("Prompt tokens.")] = 0.0
    cached: Annotated[Amount | None, execution(
        "Prompt tokens that the server found in its cache. Empty: the same as other prompt "
        "tokens.")] = None
    completion: Annotated[Amount, execution("Completion tokens.")] = 0.0


class BatchConfig(Section, frozen=True):
    """Limits of the provider's batches, for `transport: batch`."""

    max_requests: Annotated[Count, execution(
        "Most requests in one batch, and therefore most dialogues in flight at once.")] = 50_000
    window: Annotated[str, execution(
        "The completion window to ask for, in the provider's own spelling.")] = "24h"


class ModelConfig(Section, frozen=True):
    """One model: the embedded engine, or any OpenAI-compatible server."""

    model: Annotated[str, identity(
        "A named model (`sdsd models`), a path to a GGUF file, or `hf:org/repo/file.gguf`; with "
        "`base_url`, the name under which the server knows the model.")] = DEFAULT_MODEL
    base_url: Annotated[str | tuple[str, ...], execution(
        "The server, e.g. `http://localhost:8000/v1`, or a list of servers of the same model. "
        "Empty: the embedded engine or, if `model` names no model file, `OPENAI_BASE_URL`. User "
        "info is sent as Basic authorization; a query string goes with every request; `${VAR}` is "
        "read from the environment.")] = ""
    api_key_env: Annotated[str, execution(
        "The environment variable that holds the API key, which itself is never written anywhere. "
        "Empty: the provider's own, by the host of `base_url` (`OPENROUTER_API_KEY`, `HF_TOKEN`; "
        "see `docs/servers.md`), or `OPENAI_API_KEY`.")] = ""
    headers: Annotated[dict[str, str], execution(
        "HTTP headers to send with every request to `base_url`. `${VAR}` is read from the "
        "environment when the run starts, and never written anywhere.")] = {}
    chat_template: Annotated[FileName, execution(
        "Where to find the model's chat template, for `continuation` on servers that do not reveal "
        "it: a `.jinja` file, a `tokenizer_config.json`, or a directory with either.")] = ""
    backend: Annotated[str, identity(
        "Your own client: `package.module:name` of a callable that takes this section and returns "
        "the model, or an entry point of the group `sdsd.backends`; see `docs/extending.md`.")] = ""
    launch: Annotated[Literal["", "vllm"], execution(
        "`vllm`: start `vllm serve` for this model, watch it, and stop it at the end.")] = ""
    arguments: Annotated[tuple[str, ...], execution(
        "Additional arguments for the launched server, e.g. `--tensor-parallel-size=2`.")] = ()
    start_timeout: Annotated[Seconds, execution(
        "Seconds that a launched server may take to load and compile.")] = 1800.0
    transport: Annotated[Literal["online", "batch"], execution(
        "`batch`: use the provider's batch API, whose batches may take hours each and often cost "
        "half; see `docs/servers.md`.")] = "online"
    batch: Annotated[BatchConfig, execution()] = BatchConfig()
    extra_body: Annotated[dict[str, Any], identity(
        "Fields to add to the body of every request: a provider's own switches, or sampling "
        "parameters such as `top_p` (0.95 for plans and turns unless set here), `top_k` and "
        "`min_p`. `${VAR}` as in `headers`.")] = {}
    thinking: Annotated[ThinkingMode, identity(
        "Whether the model thinks before it speaks: `on` or `off` where the server has a switch "
        "for it, or `auto`, as the server does; see `docs/reasoning-models.md`.")] = "auto"
    thinking_tokens: Annotated[int, identity(
        "Tokens that a model which thinks may use for that, in addition to the `max_tokens` of its "
        "plans, turns and verdicts.", ge=0, le=131_072)] = 2048
    parallel: Annotated[Natural, execution(
        "Most requests in flight at each server. 0: two per core, up to 16, for the embedded "
        "engine; for other servers the best number is found during the run.")] = 0
    requests_per_minute: Annotated[Amount, execution(
        "The provider's limit on requests, which is never exceeded. 0: no limit.")] = 0.0
    tokens_per_minute: Annotated[Amount, execution(
        "The provider's limit on prompt and completion tokens together, which is never exceeded. "
        "0: no limit.")] = 0.0
    price: Annotated[PriceConfig, execution()] = PriceConfig()
    context: Annotated[int, identity(
        "Context length in tokens: per slot of the embedded engine, or of a launched server.",
        ge=512)] = 4096
    threads: Annotated[Natural, execution(
        "Compute threads of the embedded engine. 0: chosen for this machine.")] = 0
    timeout: Annotated[Seconds, execution(
        "Seconds that one request may take before it is retried.")] = 600.0
    retries: Annotated[Natural, execution(
        "Retries before a request is abandoned while its model keeps answering others. Its "
        "dialogue is then recorded as failed.")] = 16
    outage: Annotated[Seconds, execution(
        "Seconds without any answer from a model before the run stops. It can be continued "
        "later.")] = 600.0

    @property
    def urls(self) -> tuple[str, ...]:
        """The servers' addresses; empty for the embedded engine."""
        if isinstance(self.base_url, str):
            return (self.base_url,) if self.base_url else ()
        return self.base_url
