"""A stand-in for the program `vllm`: its command line, its log, its ways to die, and no model.

    python -m tests.stand_ins.vllm serve MODEL --host HOST --port PORT [options of vLLM]

Like vLLM it has an engine process of its own, which a crash of the server leaves behind. The
environment says what goes wrong, in words separated by blanks in `VLLM_STANDIN`:

slow     listens only after half a second
oom      ends before it listens, as if there was no room on the GPU
unknown  ends before it listens, as if the hub did not know the model
hang     never listens
sick     listens, but is not healthy
mortal   ends with an error half a second after it was found healthy
deaf     ignores SIGTERM
anxious  warns of much that is no reason to end, before it listens
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import subprocess
import sys

from aiohttp import web

from tests.stand_ins.model_server import StandIn, serving

ENGINE = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
OUT_OF_MEMORY = """\
(EngineCore_DP0 pid=7) ERROR 11-24 10:00:00 [core.py:718] EngineCore failed to start.
(EngineCore_DP0 pid=7) ERROR 11-24 10:00:00 [core.py:718] Traceback (most recent call last):
(EngineCore_DP0 pid=7) ERROR 11-24 10:00:00 [core.py:718] \x1b[31mtorch.OutOfMemoryError: CUDA \
out of memory. Tried to allocate 3.50 GiB. GPU 0 has a total capacity of 23.99 GiB.\x1b[0m
(EngineCore_DP0 pid=7) Process EngineCore_DP0:
(APIServer pid=3) RuntimeError: Engine core initialization failed. See root cause above. \
Failed core proc(s): {}
"""
UNKNOWN = """\
(APIServer pid=3) OSError: no-such/model is not a local folder and is not a valid model \
identifier listed on 'https://huggingface.co/models'
"""

WARNINGS = (
    """\
WARNING 11-24 10:00:00 [utils.py:1] Error retrieving file list: 404 Client Error, retrying 1 of 2
WARNING 11-24 10:00:00 [utils.py:1] no CUDA GPUs are available: falling back to the CPU
INFO 11-24 10:00:00 [utils.py:1] no available memory for the cache of images: switched off
"""
    + "INFO 11-24 10:00:00 [loader.py:1] loading weights\n" * 8
)


def say(text: str) -> None:
    """One line, as vLLM writes it."""
    print(f"(APIServer pid={os.getpid()}) {text}", file=sys.stderr, flush=True)


def arguments() -> argparse.Namespace:
    """The command line. Of vLLM's many options, those that are needed here."""
    parser = argparse.ArgumentParser(prog="vllm serve")
    parser.add_argument("serve", choices=["serve"])
    parser.add_argument("model")
    parser.add_argument("--host", default="0.0.0.0")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--served-model-name", nargs="+")
    parser.add_argument("--generation-config", default="auto")
    parser.add_argument("--enable-prefix-caching", action=argparse.BooleanOptionalAction)
    parser.add_argument("--enable-prompt-tokens-details", action="store_true")
    parser.add_argument("--disable-uvicorn-access-log", action="store_true")
    parser.add_argument("--max-model-len", type=int)
    parser.add_argument("--max-num-seqs", type=int)
    return parser.parse_args()


async def listen(given: argparse.Namespace, ways: set[str]) -> None:
    """Serve until SIGTERM, or as the environment says."""
    ending = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, (lambda: None) if "deaf" in ways else ending.set)
    if "slow" in ways:
        await asyncio.sleep(0.5)
    if "hang" in ways:
        await asyncio.Event().wait()

    found = asyncio.Event()

    async def health(_: web.Request) -> web.Response:
        found.set()
        return web.Response(status=503 if "sick" in ways else 200)

    app = StandIn().app()
    app.router.add_get("/health", health)
    async with serving(app, given.port):
        say("INFO:     Application startup complete.")
        if "mortal" in ways:
            await found.wait()
            await asyncio.sleep(0.5)
            say("ERROR 11-24 10:00:00 [async_llm.py:1] AsyncLLM failed: EngineDeadError")
            os._exit(1)
        await ending.wait()


def main() -> None:
    """Begin as vLLM does: read the command line, start the engine, load, listen."""
    given = arguments()
    ways = set(os.environ.get("VLLM_STANDIN", "").split())
    if "unknown" in ways:
        sys.exit(UNKNOWN)
    engine = subprocess.Popen([sys.executable, "-I", "-S", "-c", ENGINE])
    if "anxious" in ways:
        print(WARNINGS, file=sys.stderr, flush=True)
    say(f"INFO 11-24 10:00:00 [api_server.py:1] server {os.getpid()} engine {engine.pid}")
    if "oom" in ways:
        print(OUT_OF_MEMORY, file=sys.stderr, flush=True)
        os._exit(1)
    try:
        asyncio.run(listen(given, ways))
    finally:
        engine.kill()
        engine.wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
