"""Read the metrics that vLLM, SGLang and llama.cpp report about themselves (Prometheus text)."""

from __future__ import annotations

import re

from sdsd.models.concurrency import Gauges

_LABELS = r'\{((?:[^"}\n]|"(?:[^"\\\n]|\\.)*+")*+)\}'
"""In quotation marks they may hold anything."""
_GAUGE = re.compile(
    r"^(?:vllm:|sglang:|llamacpp:)(num_requests_running|num_running_reqs|requests_processing|"
    rf"num_requests_waiting|num_queue_reqs|requests_deferred)(?:{_LABELS})?[ \t]+([0-9.eE+-]+)",
    re.MULTILINE,
)
_RUNNING = ("num_requests_running", "num_running_reqs", "requests_processing")
_CACHE = re.compile(rf"^vllm:cache_config_info{_LABELS}", re.MULTILINE)
_SIZE = re.compile(
    r'(?:^|,)\s*(kv_cache_size_tokens|num_gpu_blocks|block_size)="(\d{1,12})(?:\.0)?"'
)
"""Anchored: `mamba_block_size` is another size."""


def gauges(body: bytes) -> Gauges | None:
    """Return the sums over the engines of a server; None if `body` has no such metrics."""
    text = body.decode("utf-8", "replace")
    running = waiting = 0.0
    found = False
    for name, _, value in _GAUGE.findall(text):
        try:
            number = float(value)
        except ValueError:
            continue
        found = True
        if name in _RUNNING:
            running += number
        else:
            waiting += number
    if not found:
        return None
    return Gauges(running, waiting, sum(map(_cache_tokens, _CACHE.findall(text))))


def _cache_tokens(labels: str) -> int:
    """Return the size of one engine's cache, which for hybrid models is less than its blocks."""
    sizes = {name: int(size) for name, size in _SIZE.findall(labels)}
    blocks = sizes.get("num_gpu_blocks", 0) * sizes.get("block_size", 0)
    return sizes.get("kv_cache_size_tokens", 0) or blocks
