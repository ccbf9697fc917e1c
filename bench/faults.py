"""Inject faults into runs, and check that nothing is lost or requested twice.

    python bench/faults.py [--dialogues 60] [--kinds 429 reset ...]

Every kind of fault of the simulator at 1, 10 and 50% of requests, each for a complete run. Then one
of three servers is killed and brought back; all of them are gone for a minute; and a server refuses
more requests than it can take. A run is judged by what it leaves behind: the requests behind its
journal are reconstructed (`left`) and looked up in the server's log by their digests (`audit`).

A reply counts as *delivered* if the server wrote all of it and it is a completion or a refusal of
this request (400). Delivered but not recorded is *lost*; recorded but never delivered is
*invented*; there must be neither. A reply without text (`null-content`, `thinking-only`) is
delivered and recorded, and its stage asks again with another seed, so the dialogue may differ from
that of a run without faults. So may a dialogue with a refused request, or an abandoned one (denied
three times, say); it is recorded as failed and counted by cause below the table. No other dialogue
may differ.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar, get_args

import msgspec
from msgspec import Struct

import sdsd
from sdsd.dataset.export import read
from sdsd.dataset.views import VIEWS
from sdsd.hashing import call_seed, hash64
from sdsd.models.base import Capabilities
from sdsd.models.openai_server import HttpModel
from sdsd.models.pool import Pool
from sdsd.models.probing import probe
from sdsd.pipeline.record import make_record
from sdsd.runs import middleware, retries
from sdsd.runs.ask import Ask
from sdsd.runs.directory import RunDir
from sdsd.runs.events import Began, Called, Event
from sdsd.runs.inputs import Inputs, read_inputs
from sdsd.runs.journal import Journal
from sdsd.runs.run import Run
from sdsd.runs.verify import verify
from sdsd.types import ROLES, Answer, Completion, Message, Record, Refusal, Request

sys.path.insert(0, str(Path(__file__).parent))
from simoptions import FaultKind, Options
from simulator import Simulator
from simwire import DEFAULT_MODEL, Line, Stats

KINDS: tuple[FaultKind, ...] = get_args(FaultKind)
RATES = (0.01, 0.1, 0.5)
AT_ONCE = 16
"""Runs of the matrix in progress at once; they spend most of their time waiting to retry."""
PLACES = 4
"""Slots of each server that is killed."""
TIMED: tuple[FaultKind, ...] = ("hang", "drip")
"""Faults that end only by the client's time-out."""
DENIALS: tuple[FaultKind, ...] = ("403", "404", "499", "204")
"""Faults that become a request's own if they persist while others are answered."""
QUICK: dict[str, Any] = {"instant": True, "blocks": 0, "violations": 0.6, "retry_after": 0.05}
"""Options of a simulator that answers instantly. Without a cache, no figure depends on order."""
ENGINE: dict[str, Any] = {**QUICK, "instant": False, "time_scale": 0.2}
"""Options of one whose calls take about 0.1 s."""

T = TypeVar("T")
Contents = dict[int, list[Any]]
"""The rows of each dialogue in all views, by its index."""


# -- servers and runs ----------------------------------------------------------------------


class Host:
    """A simulator in its own thread, with its log. A context manager."""

    def __init__(self, log: Path, **options: Any) -> None:
        self.log = log
        self._simulator = Simulator(Options(log=str(log), **options))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="simulator")

    def __enter__(self) -> Host:
        self._thread.start()
        self._do(self._simulator.start())
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._simulator.close()

    @property
    def url(self) -> str:
        return self._simulator.url

    def stop(self) -> None:
        self._do(self._simulator.stop())

    def restart(self) -> None:
        """Start it again on the same port."""
        self._do(self._simulator.restart())

    def fail(self, faults: Mapping[FaultKind, float]) -> None:
        """Make requests fail from now on with these faults at these rates."""
        address = self.url.removesuffix("/v1") + "/sim/faults"
        with urllib.request.urlopen(address, json.dumps(faults).encode()):
            pass

    def lines(self) -> list[Line]:
        """Return its log: completions and how they ended."""
        decode = msgspec.json.Decoder(Line).decode
        return [decode(line) for line in self.log.read_bytes().splitlines()]

    def stats(self) -> Stats:
        return self._simulator.stats()

    def probed(self, key: str = "") -> frozenset[str]:
        """Return the digests of the requests by which a run probes and checks the server."""

        async def ask() -> None:
            async with HttpModel(DEFAULT_MODEL, self.url, key=key) as model:
                await probe(model)

        asyncio.run(ask())
        path, body = _WRITER.encode(retries.harmless(_WRITER.capabilities), 0)
        return frozenset(line.digest for line in self.lines()) | {_digest(path, body)}

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


def keys(n: int, hosts: Sequence[Host], **model: Any) -> dict[str, Any]:
    """Return the configuration of a run of small dialogues, of about five calls each."""
    urls = [host.url for host in hosts]
    return {
        "n": n,
        "models": {"default": {"model": DEFAULT_MODEL, "base_url": urls, **model}},
        "scenarios": {"exchanges": [1, 2], "principles": [1, 1]},
        "dialogue": {"protocol": "chat", "self_check": "never"},
        "critique": {"exam": 0},
    }


def undisturbed(folder: Path, n: int) -> Contents:
    """Return the data set of a run without faults."""
    with Host(folder / "log", **QUICK) as host:
        sdsd.run(keys(n, [host]), out=folder / "run")
    return contents(folder / "run")


def lucky(rate: float) -> int:
    """Return a seed of the planned faults with which one of the requests 50 to 79 fails."""
    seeds = range(1000)
    return next(s for s in seeds if any(hash64(s, k) / 2**64 < rate for k in range(50, 80)))


# -- what a run leaves behind --------------------------------------------------------------


class Post(Struct, frozen=True):
    """A request behind an answer in the journal."""

    dialogue: int
    digest: str


class _Posting(Ask):
    """An `Ask` for replaying a run, which notes what was posted."""

    def __init__(self, index: int, scenario: str, inputs: Inputs, journal: Journal) -> None:
        self.recorded = journal.load(scenario)
        names: dict[str, str] = dict.fromkeys(ROLES, DEFAULT_MODEL)
        super().__init__(scenario, inputs.config.seed, self.recorded, middleware.replay_only, names)
        self._index, self._run_seed = index, inputs.config.seed
        self.posts: list[Post] = []
        self.given_up = self.silent = False

    async def __call__(self, step: str, request: Request) -> Completion:
        path, body = _WRITER.encode(request, call_seed(self._run_seed, self.scenario, step))
        digest = _digest(path, body)
        answer = self.recorded[step].answer
        if isinstance(answer, Refusal) and answer.cause != "HTTP 400":
            self.given_up = True
        else:
            self.posts.append(Post(self._index, digest))
            self.silent |= isinstance(answer, Refusal) or not answer.text
        return await super().__call__(step, request)


_WRITER = HttpModel(
    DEFAULT_MODEL, "http://127.0.0.1/v1", capabilities=Capabilities(schema=True, logprobs=True)
)
"""Encodes requests as a run against the simulator does."""


def _digest(path: str, body: bytes) -> str:
    """Return the digest by which the server's log names a request."""
    return blake2b(b"/v1" + path.encode() + body, digest_size=8).hexdigest()


class Left(Struct, frozen=True):
    """What the journal of a finished run contains."""

    posts: list[Post]
    """Within a dialogue in the order of sending; without abandoned requests."""
    given_up: frozenset[int]
    """Dialogues with a request that the client abandoned, which is recorded as its answer."""
    answers: int
    records: list[Record]
    silent: frozenset[int]
    """Dialogues with a recorded answer without text: an empty reply, or a refusal."""


def left(out: Path) -> Left:
    """Read the journal of a finished run, and reconstruct its requests."""
    rundir = RunDir(out)
    inputs, manifest = read_inputs(rundir.config()), rundir.manifest()
    assert manifest is not None
    posts: list[Post] = []
    silent, given_up = set(), set()
    with Journal(rundir.journal, readonly=True) as journal, asyncio.Runner() as loop:
        records = list(journal.records())
        for record in records:
            index = record.scenario.index
            ask = _Posting(index, record.scenario.id, inputs, journal)
            loop.run(make_record(record.scenario, ask, inputs.method(manifest)))
            posts += ask.posts
            if ask.silent:
                silent.add(index)
            if ask.given_up:
                given_up.add(index)
        answers = journal.answers()
        return Left(posts, frozenset(given_up), answers, records, frozenset(silent))


def contents(out: Path) -> Contents:
    """Return the data set of a run, without durations."""
    found: Contents = {}
    for view in VIEWS:
        for row in read(out / "data", view):
            row.pop("seconds", None)
            found.setdefault(row["index"], []).append((view, row))
    return found


class Account(Struct, frozen=True):
    """The server's log compared with the journal, without the probes."""

    requests: int
    injected: int
    """Requests that were made to fail."""
    refusals: int
    """Answers with 429 and 503."""
    recorded: int
    twice: int
    """Recorded more than once."""
    lost: int
    """Delivered but not recorded."""
    invented: int
    """Recorded but never delivered."""


def delivered(line: Line) -> bool:
    """Return whether the server wrote a complete answer: a completion or a permanent refusal."""
    if line.outcome in ("drip", "slow-headers"):
        return line.status == 200
    said = ("answered", "duplicate", "null-content", "thinking-only")
    return line.outcome in said or line.status == 400


def audit(left: Left, lines: Iterable[Line], probes: frozenset[str]) -> Account:
    """Compare the journal with the server's log."""
    lines = [line for line in lines if line.digest not in probes]
    came = Counter(line.digest for line in lines if delivered(line))
    kept = Counter(post.digest for post in left.posts)
    return Account(
        requests=len(lines),
        injected=sum(line.outcome in KINDS for line in lines),
        refusals=sum(line.status in (429, 503) for line in lines),
        recorded=left.answers,
        twice=left.answers - len(left.given_up) - len(kept),
        lost=(came - kept).total(),
        invented=(kept - came).total(),
    )


class Judged(Struct, frozen=True):
    """A finished run, compared with the servers' logs and an undisturbed run."""

    account: Account
    outcomes: dict[str, int]
    """Counts of `accepted`, `filtered`, `failed`."""
    causes: dict[str, int]
    missing: int
    differing: frozenset[int]
    """Dialogues whose rows differ from those of the undisturbed run."""
    silent: frozenset[int]
    """Dialogues with an answer without text."""
    given_up: frozenset[int]
    """Dialogues with an abandoned request."""
    unverified: tuple[str, ...]
    """Findings of `sdsd verify`."""
    routes: dict[int, tuple[int, ...]]
    """The servers that answered each dialogue, in order; one that moved has several."""
    seconds: float

    @property
    def moves(self) -> Counter[int]:
        """Count the dialogues by how often they moved to another server."""
        return Counter(len(route) - 1 for route in self.routes.values())

    def wrong(self, cut: int = 0) -> list[str]:
        """Return in words whatever must not happen but did.

        `cut` replies may be lost: those that may have been in transit when a server was killed.
        """
        account = self.account
        found = {
            "recorded twice": account.twice,
            "lost": max(0, account.lost - cut),
            "invented": account.invented,
            "missing": self.missing,
            "other than undisturbed": len(self.differing - self.silent - self.given_up),
        }
        return [f"{count} {what}" for what, count in found.items() if count] + [*self.unverified]


def judge(result: Run, hosts: Sequence[Host], probes: frozenset[str], clean: Contents) -> Judged:
    """Judge a finished run on these servers."""
    found, rows = left(result.path), contents(result.path)
    logs = [host.lines() for host in hosts]
    served = {line.digest: k for k, log in enumerate(logs) for line in log if delivered(line)}
    ways: dict[int, list[int]] = {}
    for post in found.posts:
        ways.setdefault(post.dialogue, []).append(served.get(post.digest, -1))
    return Judged(
        account=audit(found, (line for log in logs for line in log), probes),
        outcomes=dict(Counter(record.outcome for record in found.records)),
        causes=dict(Counter(r.failure.cause for r in found.records if r.failure)),
        missing=result.status().n - len(found.records),
        differing=frozenset(k for k in clean if clean[k] != rows.get(k)),
        silent=found.silent,
        given_up=found.given_up,
        unverified=verify(RunDir(result.path)).defects,
        routes={k: tuple(server for server, _ in groupby(way)) for k, way in ways.items()},
        seconds=result.seconds,
    )


# -- what is done to runs ------------------------------------------------------------------


def trial(
    folder: Path,
    kind: FaultKind,
    rate: float,
    clean: Contents,
    lift: float = math.inf,
    timeout: float = 1.0,
) -> Judged:
    """Make a run whose requests fail in one way from its first dialogue on.

    After `lift` seconds the fault ends. Where replies never end, they are waited for `timeout`
    seconds; others must not take as long.
    """
    patience = {"timeout": timeout if kind in TIMED else 60.0}
    with Host(folder / "log", **QUICK, fault_seed=lucky(rate)) as host:
        probes = host.probed()
        over = threading.Timer(min(lift, threading.TIMEOUT_MAX), host.fail, [{}])

        def on_event(event: Event) -> None:
            if isinstance(event, Began):
                host.fail({kind: rate})
                over.start()

        try:
            result = sdsd.run(
                keys(len(clean), [host], **patience), out=folder / "run", on_event=on_event
            )
        finally:
            over.cancel()
        return judge(result, [host], probes, clean)


class Outage:
    """Listens to a run and kills servers in the middle of it.

    That happens after `after` answers. They are back on the same ports `gone` seconds later, or
    after `missed` more answers of the others.
    """

    def __init__(
        self, hosts: Sequence[Host], after: int, gone: float = math.inf, missed: int = 0
    ) -> None:
        self._hosts, self._after, self._missed = hosts, after, missed
        self._back = threading.Timer(gone, self._restart) if gone < math.inf else None
        self._answers = 0
        self.before = 0

    def __call__(self, event: Event) -> None:
        if not isinstance(event, Called):
            return
        self._answers += 1
        if self._answers == self._after:
            for host in self._hosts:
                host.stop()
                self.before += sum(map(delivered, host.lines()))
            if self._back is not None:
                self._back.start()
        elif self._missed and self._answers == self._after + self._missed:
            self._restart()

    def over(self) -> None:
        if self._back is not None:
            self._back.join()

    def _restart(self) -> None:
        for host in self._hosts:
            host.restart()


class Disturbed(Struct, frozen=True):
    """A run during which some servers were gone for a while."""

    judged: Judged
    before: int
    """Answers of the killed servers until then."""
    after: int
    """Answers since they came back."""
    served: list[int]


def disturbed(
    folder: Path,
    clean: Contents,
    servers: int,
    die: int,
    gone: float = math.inf,
    missed: int = 0,
    **model: Any,
) -> Disturbed:
    """Make a run on some servers; the first `die` are gone for a while: see `Outage`."""
    with contextlib.ExitStack() as stack:
        hosts = [stack.enter_context(Host(folder / f"log-{k}", **ENGINE)) for k in range(servers)]
        probes = hosts[0].probed()
        outage = Outage(hosts[:die], len(clean), gone, missed)
        result = sdsd.run(
            keys(len(clean), hosts, parallel=PLACES, **model), out=folder / "run", on_event=outage
        )
        outage.over()
        judged = judge(result, hosts, probes, clean)
        served = [sum(map(delivered, host.lines())) for host in hosts]
    return Disturbed(judged, outage.before, sum(served[:die]) - outage.before, served)


class Capped(Struct, frozen=True):
    """Many calls to a server that takes a few at once and refuses the rest."""

    answered: int
    refusals: int
    seconds: float
    steps: int
    """Steps of the server's engine; each writes one token for every request in flight."""
    ideal: int
    """Steps if every slot were busy in each of them."""


def capped(log: Path, *, calls: int = 600, cap: int = 16, limit: int = 128) -> Capped:
    """Make calls of 0.2 s each, with at most `limit` in flight, to a server with a cap."""
    tokens, step = 32, 0.00625
    engine = {"a": 1000 * step, "b": 0.0, "c": 0.0, "blocks": 0}
    request = Request("agent", tokens, (Message("user", "Go on."),))

    async def all_of_them(url: str) -> tuple[list[Answer], float]:
        async with HttpModel(DEFAULT_MODEL, url) as model:
            pool = Pool([model], limit=limit)
            async with pool.monitored(HttpModel.gauges):  # type: ignore[arg-type]
                send = retries.retry(
                    middleware.to_models({"agent": pool}),
                    {"agent": retries.RetryPolicy()},
                    {"agent": DEFAULT_MODEL},
                )
                asked = [
                    middleware.Call(str(k), "turn", request, k, {}, dialogue=k)
                    for k in range(calls)
                ]
                started = time.perf_counter()
                answers = await asyncio.gather(*map(send, asked))
                return answers, time.perf_counter() - started

    with Host(log, **engine, cap=cap, retry_after=1.0) as host:
        answers, seconds = asyncio.run(all_of_them(host.url))
        refusals = sum(line.status == 429 for line in host.lines())
        steps = round(host.stats().busy_seconds / step)
    good = sum(isinstance(a, Completion) and a.completion_tokens == tokens for a in answers)
    return Capped(good, refusals, seconds, steps, calls * tokens // cap)


# -- the table -----------------------------------------------------------------------------

HEADS = (
    "fault", "rate", "requests", "faults", "refusals", "recorded", "recorded twice", "lost",
    "accepted/filtered/failed", "seconds", "data set equal",
)  # fmt: skip


def cells(kind: str, rate: float, judged: Judged) -> list[str]:
    account = judged.account
    outcomes = "/".join(str(judged.outcomes.get(o, 0)) for o in ("accepted", "filtered", "failed"))
    odd = len(judged.differing)
    silent = (
        f" ({len(judged.differing & judged.silent)} with an answer without text)" if odd else ""
    )
    return [
        kind, f"{rate:.0%}", f"{account.requests:,}", f"{account.injected:,}",
        f"{account.refusals:,}", f"{account.recorded:,}", f"{account.twice}", f"{account.lost}",
        outcomes, f"{judged.seconds:.1f}", f"all but {odd}{silent}" if odd else "yes",
    ]  # fmt: skip


def line(words: Sequence[str]) -> str:
    return f"| {' | '.join(words)} |"


def summary(judged: Judged) -> str:
    """Return a judgement in words, for runs that are not rows of the table."""
    account = judged.account
    return (
        f"{judged.seconds:.1f} s, {account.requests} requests, {account.recorded} recorded, "
        f"{account.twice} twice, {account.lost} lost, "
        f"data set {'DIFFERENT' if judged.differing else 'equal'}"
    )


def matrix(root: Path, kinds: Sequence[FaultKind], clean: Contents) -> Iterator[str]:
    """Run the matrix; yield the lines of the table, and below it whatever does not hold."""
    plan = [(kind, rate) for kind in kinds for rate in RATES]

    def run(fault: tuple[FaultKind, float]) -> Judged:
        kind, rate = fault
        folder = root / f"{kind}-{rate}"
        folder.mkdir()
        return trial(folder, kind, rate, clean)

    yield line(HEADS)
    yield line(["---"] * len(HEADS))
    below = []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for (kind, rate), judged in zip(plan, pool.map(run, plan), strict=True):
            yield line(cells(kind, rate, judged))
            where = f"{kind} at {rate:.0%}"
            below += [f"{where}: failed: {cause} ({k})" for cause, k in judged.causes.items()]
            below += [f"{where}: WRONG: {wrong}" for wrong in judged.wrong()]
    yield ""
    yield from below


def scenarios(root: Path, clean: Contents, minute: float) -> Iterator[str]:
    """Run the other experiments; yield a line for each."""
    for name in ("one", "all"):
        (root / name).mkdir()
    one = disturbed(root / "one", clean, servers=3, die=1, gone=1.0)
    moved = sorted(one.judged.moves.items())
    moves = ", ".join(f"{count} dialogues moved {k} times" for k, count in moved)
    yield f"One of three killed for 1 s: {summary(one.judged)}; {one.served} answers by server; "
    yield f"the killed one gave {one.before} before and {one.after} after; {moves}"
    gone = disturbed(root / "all", clean, servers=3, die=3, gone=minute)
    yield f"All three gone for {minute:g} s: {summary(gone.judged)}"
    found = [*one.judged.wrong(cut=PLACES), *gone.judged.wrong(cut=3 * PLACES)]
    yield from (f"WRONG: {wrong}" for wrong in found)
    cap = capped(root / "capped-log")
    yield (
        f"600 calls of 0.2 s, up to 128 at once, at a server that takes 16: {cap.seconds:.2f} s, "
        f"{cap.steps / cap.ideal:.2f} x the least steps, {cap.refusals} refusals, "
        f"{cap.answered} answered"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dialogues", type=int, default=60, help="per run, of five calls each")
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=KINDS)
    parser.add_argument("--outage", type=float, default=60.0, help="seconds without any server")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        clean = undisturbed(root, given.dialogues)
        for text in matrix(root, given.kinds, clean):
            print(text, flush=True)
        for text in scenarios(root, clean, given.outage):
            print(text, flush=True)


if __name__ == "__main__":
    main()
