"""Launching vLLM, against a stand-in program: its command line, its death in every way, its log."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sdsd.errors import ConfigError, ModelError, TransientError
from sdsd.models import vllm
from sdsd.models.openai_server import HttpModel
from sdsd.models.scripted import ScriptedModel
from sdsd.models.vllm import Launch, LaunchedModel, Server
from sdsd.runs.session import in_loop
from sdsd.types import Answer, Completion, Message, Request

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
HELLO = Request("agent", 8, (Message("user", "Hello?"),))


def command(model: str, *, port: int, **launch: Any) -> list[str]:
    return vllm.command(Launch(model, Path(), **launch), port)


def serve(
    model: str, *, note: Callable[[str], None] = lambda text: None, **launch: Any
) -> contextlib.AbstractAsyncContextManager[Server]:
    return vllm.serve(Launch(model, **launch), note)


class TestCommand:
    """What `vllm serve` is told."""

    def test_everything_that_we_choose(self) -> None:
        assert command("org/tiny", port=1234, context=4096, parallel=64) == shlex.split(
            "vllm serve org/tiny --host 127.0.0.1 --port 1234 --served-model-name org/tiny "
            "--generation-config vllm --enable-prefix-caching --enable-prompt-tokens-details "
            "--disable-uvicorn-access-log --max-model-len 4096 --max-num-seqs 64"
        )

    def test_what_is_not_given_is_left_to_vllm(self) -> None:
        line = command("tiny", port=1, program="/opt/vllm")
        assert line[0] == "/opt/vllm"
        assert not {"--max-model-len", "--max-num-seqs"} & set(line)

    @pytest.mark.parametrize(
        "own",
        [
            ["--max-model-len", "8k"],
            ["--max-model-len=8k"],
            ["--max_model_len", "8k"],
            ["--tensor-parallel-size", "2", "--max_model_len=8k"],
        ],
    )
    def test_an_own_argument_takes_the_place_of_ours(self, own: list[str]) -> None:
        line = command("tiny", port=1, context=4096, arguments=own)
        assert line[-len(own) :] == own
        assert "4096" not in line
        assert sum("model-len" in word or "model_len" in word for word in line) == 1

    def test_a_switch_can_be_turned_off(self) -> None:
        line = command("tiny", port=1, arguments=["--no-enable-prefix-caching"])
        assert [word for word in line if "prefix" in word] == ["--no-enable-prefix-caching"]

    @pytest.mark.parametrize(
        "own",
        ["--port", "--host=0.0.0.0", "--served_model_name", "--model", "--uds", "--port 80",
         "--served-model"],
    )  # fmt: skip
    def test_where_it_is_reached_is_not_for_the_user_to_say(self, own: str) -> None:
        with pytest.raises(ConfigError, match=r"remove it.*base_url"):
            command("tiny", port=1, arguments=[own, "x"])

    @pytest.mark.parametrize("own", ["--api-server-count", "--hf-overrides", "--model-impl"])
    def test_other_options_may_begin_like_those(self, own: str) -> None:
        assert command("tiny", port=1, arguments=[own, "x"])[-2:] == [own, "x"]

    def test_an_option_and_its_value_are_two_arguments(self) -> None:
        with pytest.raises(ConfigError, match=r"`--seed 7` as one text, .*write the option and"):
            command("tiny", port=1, arguments=["--seed 7"])
        spaced = '--hf-overrides={"a": 1}'
        assert command("tiny", port=1, arguments=[spaced])[-1] == spaced


@pytest.fixture
def program(tmp_path: Path) -> str:
    """The stand-in as a program in a directory of its own."""
    path = tmp_path / "vllm"
    path.write_text(
        f'#!/bin/sh\nexport PYTHONPATH="{ROOT}:$PYTHONPATH"\n'
        f'exec {sys.executable} -m tests.stand_ins.vllm "$@"\n'
    )
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "vllm-default.log"


def earlier(log: Path, text: str) -> None:
    """A log that holds the lines of another start."""
    log.parent.mkdir()
    log.write_text(text)


def lines(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


def processes(log: Path) -> list[int]:
    """Every server and engine that the log speaks of."""
    pairs = re.findall(r"server (\d+) engine (\d+)", "\n".join(lines(log)))
    return [int(number) for pair in pairs for number in pair]


def alive(number: int) -> bool:
    try:
        state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"  # dead, and for whoever inherited it to bury


def gone(log: Path, within: float = 30.0) -> bool:
    """Whether all of them end before they would by themselves, which takes a minute."""
    assert processes(log)
    until = time.monotonic() + within
    while any(map(alive, processes(log))) and time.monotonic() < until:
        time.sleep(0.02)
    return not any(map(alive, processes(log)))


async def asked(server: Server) -> Answer:
    async with HttpModel("tiny", server.base_url) as model:
        return await model.complete(HELLO, 1)


async def told(notes: list[str], count: int = 1) -> None:
    """Wait until so many notes came."""
    async with asyncio.timeout(10):
        while len(notes) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_it_is_up_when_it_is_yielded_and_gone_afterwards(
    program: str, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_STANDIN", "slow")
    async with serve("tiny", log=log, program=program, context=4096, parallel=8) as server:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/v1", server.base_url)
        assert isinstance(await asked(server), Completion)
        assert [alive(number) for number in processes(log)] == [True, True]
        await server.up()
    assert gone(log)
    first, *rest = lines(log)
    assert first.startswith(f"$ {program} serve tiny --host 127.0.0.1 --port ")
    assert any("Application startup complete" in line for line in rest)
    assert server.failed == ""


async def test_a_program_that_is_not_there(log: Path) -> None:
    with pytest.raises(ModelError, match=r"`vllm-nowhere` is not installed.*pip install vllm"):
        async with serve("tiny", log=log, program="vllm-nowhere"):
            pass


@pytest.mark.parametrize(
    ("way", "said"),
    [
        ("oom", r"exit code 1; .*CUDA out of memory\. Tried.*lower `context` or `parallel`"),
        ("unknown", r"exit code 1; .*not a valid model identifier.*check the name in `model`"),
    ],
)
async def test_a_start_that_fails_says_why_and_what_to_do(
    program: str, log: Path, monkeypatch: pytest.MonkeyPatch, way: str, said: str
) -> None:
    monkeypatch.setenv("VLLM_STANDIN", way)
    earlier(log, "ValueError: 9 GiB, which is larger than the available KV cache memory\n")
    with pytest.raises(ModelError, match=said) as error:
        async with serve("no-such/model", log=log, program=program):
            pass
    message = str(error.value)
    assert f"{program} serve no-such/model --host 127.0.0.1" in message
    assert str(log) in message
    assert "\x1b" not in message
    assert "KV cache" not in message  # that was another start
    assert way == "unknown" or gone(log)


async def test_arguments_that_vllm_does_not_know(program: str, log: Path) -> None:
    with pytest.raises(ModelError, match=r"exit code 2; .*--warp-speed.*correct `arguments`"):
        async with serve("tiny", log=log, program=program, arguments=["--warp-speed"]):
            pass


@pytest.mark.parametrize(
    ("argument", "variable"),
    [
        ("--api-key", "VLLM_API_KEY"), ("--api_key=hush", "VLLM_API_KEY"),
        ("--hf-token", "HF_TOKEN"), ("--api-key hush", "VLLM_API_KEY"), ("--api-k", "VLLM_API_KEY"),
        ("--hf_tok=hush", "HF_TOKEN"),
    ],
)  # fmt: skip
def test_secrets_are_no_arguments(log: Path, argument: str, variable: str) -> None:
    with pytest.raises(ConfigError, match=variable) as error:
        vllm.command(Launch("tiny", log, (argument, "hush")), 1)
    assert "hush" not in str(error.value)


@pytest.mark.parametrize("way", ["hang", "sick"])
async def test_a_start_that_takes_too_long(
    program: str, log: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setenv("VLLM_STANDIN", way)
    for seconds in (1.2, 6.0, 30.0):  # a busy machine may not even start it in the first
        said = rf"not healthy after {seconds:g} s.*raise `start_timeout`"
        with pytest.raises(ModelError, match=said):
            async with serve("tiny", log=log, program=program, start_timeout=seconds, grace=0.3):
                pass
        if processes(log):
            break
    assert gone(log)


async def test_one_that_ignores_sigterm_is_killed(
    program: str, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_STANDIN", "deaf")
    async with serve("tiny", log=log, program=program, grace=0.2):
        pass
    assert gone(log)


async def test_nothing_is_left_when_the_caller_raises(program: str, log: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        async with serve("tiny", log=log, program=program):
            raise ZeroDivisionError
    assert gone(log)


@pytest.mark.parametrize("way", ["", "deaf", "hang"])
async def test_nothing_is_left_when_the_caller_is_cancelled_twice(
    program: str, log: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setenv("VLLM_STANDIN", way)

    async def work() -> None:
        async with serve("tiny", log=log, program=program, grace=60):
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    async with asyncio.timeout(10):
        while not processes(log):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.3)
        task.cancel()
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert gone(log)


PARENT = """
import asyncio, sys
from pathlib import Path
from sdsd.models.scripted import ScriptedModel
from sdsd.models.vllm import Launch, serve

async def main():
    launch = Launch("tiny", Path(sys.argv[1]), program=sys.argv[2], grace=0.2)
    async with serve(launch):
        print("up", flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.parametrize("way", ["", "deaf"])
def test_nothing_outlives_us_when_we_are_killed(
    program: str, log: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setenv("VLLM_STANDIN", way)
    line = [sys.executable, "-c", PARENT, str(log), program]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "up\n"
        parent.kill()
    assert gone(log)


async def test_when_it_dies_it_is_started_again_on_the_same_port(program: str, log: Path) -> None:
    notes: list[str] = []
    async with serve("tiny", log=log, program=program, note=notes.append) as server:
        before, engine = processes(log)
        os.kill(before, signal.SIGKILL)
        await told(notes)
        with pytest.raises(TransientError):  # at once: the next one takes a moment to start
            await asked(server)
        async with asyncio.timeout(10):
            while alive(engine):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert await server.up() is True
        assert await server.up() is False
        assert isinstance(await asked(server), Completion)
        assert len(processes(log)) == 4
    assert re.search(r"killed by signal 9.*out of memory.*2 more restarts after this one", notes[0])
    assert gone(log)


async def test_leaving_while_it_is_started_again_does_not_hang(program: str, log: Path) -> None:
    notes: list[str] = []
    async with asyncio.timeout(60):
        async with serve("tiny", log=log, program=program, note=notes.append):
            os.kill(processes(log)[0], signal.SIGKILL)
            while not notes:  # noqa: ASYNC110  (leave at the moment when the restart begins)
                await asyncio.sleep(0)
    assert gone(log)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
async def test_a_killed_server_is_not_explained_by_what_it_warned_of_before(
    program: str, log: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    notes: list[str] = []
    monkeypatch.setenv("VLLM_STANDIN", "anxious")
    async with serve("tiny", log=log, program=program, note=notes.append) as server:
        os.kill(processes(log)[0], number)
        await told(notes)
        await server.up()
    for wrong in ("404", "CUDA", "cache of images", "hub", "lower `context`"):
        assert wrong not in notes[0]


async def test_a_guard_that_is_killed_counts_as_a_death(program: str, log: Path) -> None:
    notes: list[str] = []
    async with serve("tiny", log=log, program=program, note=notes.append) as server:
        first = processes(log)
        os.kill(os.getpgid(first[0]), signal.SIGKILL)  # the group's leader
        await told(notes)
        await server.up()
        assert not any(map(alive, first))
        assert isinstance(await asked(server), Completion)


async def test_after_too_many_deaths_it_is_given_up(
    program: str, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    monkeypatch.setenv("VLLM_STANDIN", "mortal")
    async with serve("tiny", log=log, program=program, restarts=2, note=notes.append) as server:
        monkeypatch.setenv("VLLM_STANDIN", "oom")  # the new starts do not even come that far
        await told(notes, 3)
        assert gone(log)
        with pytest.raises(ModelError, match="abandoned after 2 restarts"):
            await server.up()
    assert notes[2:] == [server.failed]
    assert "CUDA out of memory" in server.failed
    assert "EngineDeadError" in notes[0]
    assert [re.findall(r"(\d) more restarts", note) for note in notes] == [["1"], ["0"], []]


async def test_a_launched_model_waits_for_the_server(program: str, log: Path) -> None:
    notes: list[str] = []
    async with (
        serve("tiny", log=log, program=program, note=notes.append) as server,
        HttpModel("tiny", server.base_url) as http,
    ):
        model = LaunchedModel(http, server)
        assert (model.name, model.capabilities) == (http.name, http.capabilities)
        assert isinstance(await model.complete(HELLO, 1), Completion)
        os.kill(processes(log)[0], signal.SIGKILL)
        answers = await asyncio.gather(*(model.complete(HELLO, seed) for seed in range(4)))
        assert all(isinstance(answer, Completion) for answer in answers)
    assert len(notes) == 1


async def test_a_fault_of_a_server_that_is_up_is_left_to_the_retry(program: str, log: Path) -> None:
    class Faulty(ScriptedModel):
        asked = 0

        async def complete(self, request: Request, seed: int, dialogue: int = 0) -> Answer:
            self.asked += 1
            raise TransientError("overloaded")

    faulty = Faulty()
    async with serve("tiny", log=log, program=program) as server:
        with pytest.raises(TransientError):
            await LaunchedModel(faulty, server).complete(HELLO, 1)
    assert faulty.asked == 1


async def test_a_launched_model_of_a_server_given_up_is_no_use_to_any_request(
    program: str, log: Path
) -> None:
    notes: list[str] = []
    async with (
        serve("tiny", log=log, program=program, restarts=0, note=notes.append) as server,
        HttpModel("tiny", server.base_url) as http,
    ):
        os.kill(processes(log)[0], signal.SIGKILL)
        await told(notes)
        with pytest.raises(ModelError, match=r"abandoned: .*killed by signal 9"):
            await LaunchedModel(http, server).complete(HELLO, 1)


async def test_two_at_once(program: str, log: Path) -> None:
    other = log.with_name("vllm-critic.log")
    async with (
        serve("tiny", log=log, program=program) as one,
        serve("small", log=other, program=program) as two,
    ):
        assert one.base_url != two.base_url
        assert isinstance(await asked(one), Completion)
        assert isinstance(await asked(two), Completion)
    assert gone(log)
    assert gone(other)


async def test_in_the_loop_of_a_run_on_a_thread_of_its_own(program: str, log: Path) -> None:
    notes: list[str] = []

    async def work() -> Answer:
        async with serve("tiny", log=log, program=program, note=notes.append) as server:
            os.kill(processes(log)[0], signal.SIGKILL)
            await told(notes)
            await server.up()
            return await asked(server)

    assert isinstance(in_loop(work()), Completion)
    assert gone(log)


@pytest.mark.parametrize(
    ("line", "remedy"),
    [
        (
            "ValueError: To serve at least one request with the model's max seq len (32768), 4 GiB "
            "KV cache is needed, which is larger than the available KV cache memory",
            "lower `context`,",
        ),
        (
            "ValueError: Free memory on device (3.22/4.0 GiB) on startup is less than desired",
            "stop other programs that use the GPU",
        ),
        (
            "ValueError: User-specified max_model_len (99999) is greater than the derived "
            "max_model_len (max_position_embeddings=4096)",
            "the model supports no more",
        ),
        ("OSError: You are trying to access a gated repo.", "HF_TOKEN"),
        ("OSError: [Errno 98] Address already in use", "another port"),
        ("RuntimeError: Failed to infer device type", "vLLM sees no GPU"),
        ("RuntimeError: something nobody has seen", "read the log"),
    ],
)
async def test_known_complaints_have_a_remedy(tmp_path: Path, line: str, remedy: str) -> None:
    program = tmp_path / "vllm"
    program.write_text(f"#!/bin/sh\necho {shlex.quote(line)} >&2\nexit 3\n")
    program.chmod(0o755)
    with pytest.raises(ModelError, match="exit code 3") as error:
        async with serve("tiny", log=tmp_path / "log", program=str(program)):
            pass
    assert line in str(error.value)
    assert remedy in str(error.value)


@pytest.mark.parametrize("reply", [b"", b"HTTP/1.0 503 No\r\n\r\n", b"\r\n", b"x" * 9999, b"200\n"])
async def test_what_does_not_count_as_healthy(reply: bytes) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        with contextlib.suppress(ConnectionError):
            writer.write(reply)
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        assert not await vllm._healthy(port)
