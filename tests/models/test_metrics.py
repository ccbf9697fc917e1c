"""What servers report about themselves."""

from __future__ import annotations

import pytest

from sdsd.models.concurrency import Gauges
from sdsd.models.metrics import gauges

METRICS = """
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 12.0
vllm:num_requests_running{engine="1",model_name="m"} 3.0
vllm:num_requests_waiting{engine="0",model_name="m"} 1e1
"""
PLAIN = 'vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="2048",other="x"} 1.0\n'
SECOND = 'vllm:cache_config_info{engine="1",num_gpu_blocks="1000",block_size="16"} 1.0\n'
HYBRID = (
    'vllm:cache_config_info{block_size="16",mamba_block_size="1056",num_gpu_blocks="2048"} 1.0\n'
)
SIZED = (
    'vllm:cache_config_info{block_size="528",engine="0",kv_cache_size_tokens="251856",'
    'mamba_block_size="528",num_gpu_blocks="2048"} 1.0\n'
)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (METRICS + PLAIN, Gauges(15.0, 10.0, 32768)),
        (METRICS, Gauges(15.0, 10.0, 0)),
        (METRICS + PLAIN + SECOND, Gauges(15.0, 10.0, 32768 + 16000)),
        (METRICS + HYBRID, Gauges(15.0, 10.0, 32768)),
        (METRICS + SIZED, Gauges(15.0, 10.0, 251856)),
        (METRICS + SIZED + SIZED, Gauges(15.0, 10.0, 2 * 251856)),
        (METRICS + SIZED.replace("251856", "None"), Gauges(15.0, 10.0, 528 * 2048)),
        ('sglang:num_running_reqs 4\nsglang:num_queue_reqs{a="b"} 2.0\n', Gauges(4.0, 2.0)),
        ("llamacpp:requests_processing 1\nllamacpp:requests_deferred 0\n", Gauges(1.0, 0.0)),
        (METRICS + PLAIN.replace('"x"', '"a}, block_size=\\"1"'), Gauges(15.0, 10.0, 32768)),
        (METRICS.replace('"m"', '"a}b{"'), Gauges(15.0, 10.0, 0)),
        (METRICS.replace(" 12.0", "\t1.2E+1 1700000000").replace(" 3.0", " 3"), Gauges(15.0, 10.0)),
        (METRICS.replace("\n", "\r\n") + "# EOF\n", Gauges(15.0, 10.0)),
        ("python_info 1\n", None),
        ("", None),
        ("vllm:num_requests_running{ NaN\nvllm:num_requests_running ..\n", None),
    ],
)
def test_what_servers_report(text: str, found: Gauges | None) -> None:
    assert gauges(text.encode()) == found
