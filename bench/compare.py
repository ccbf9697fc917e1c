"""Run the same dialogues through other programs and sdsd, against one simulated server.

    python bench/compare.py build [PEER ...]
    python bench/compare.py run [--peers ...] [--mode instant|engine|scarce] [--n 300] [--repeat 3]
    python bench/compare.py kill [--peers ...] [--n 100]

`build` makes an environment for each program under `.bench/`, with the versions in
`peers/requirements-*.txt`; together they take gigabytes, most of it sdialog's torch. `run` runs the
programs in turn, round by round, and prints a table: what a call costs them when the server answers
instantly (`instant`), or how well they use an engine with much (`engine`) or little (`scarce`) room
for prefixes. `kill` ends each program with SIGKILL after half of its calls, starts it again with
whatever it offers for resuming, and counts the answered calls that it sends again.

The docstring of `peers/drive_*.py` says what each program does. Every figure is measured from
outside: the server's counters and the kernel's accounting of the processes. Linux only.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent / "peers"))
from supervise import (
    ENVIRONMENTS,
    HERE,
    MODES,
    PEERS,
    PeerFailed,
    Run,
    Server,
    drive,
    folder,
    served,
)

BASELINE = "bare"
CALLS = 10.35
"""Approximate calls per dialogue."""
FEW = 20
"""Dialogues of the short run; the slope from it to the long one is the cost of a call."""


# -- environments --------------------------------------------------------------------------


def build(names: Sequence[str]) -> int:
    """Make the environments, and return how many failed."""
    failed = 0
    for env in dict.fromkeys(PEERS[name].env for name in names):
        if env == "sdsd":
            continue
        place, wanted = ENVIRONMENTS / env, HERE / f"requirements-{env}.txt"
        print(f"{env}: {' '.join(wanted.read_text('utf-8').split())}", flush=True)
        try:
            subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
            pip = [str(place / "bin" / "python"), "-m", "pip", "install", "-q", "-r", str(wanted)]
            subprocess.run(pip, check=True)
        except subprocess.CalledProcessError as error:
            failed += 1
            print(f"{env}: not built: {error}; its rows will say so", file=sys.stderr)
    return failed


# -- run -----------------------------------------------------------------------------------

Pair = tuple[Run | None, Run]
"""A short run, if one is needed, and the long one."""


def compare(
    names: Sequence[str], mode: str, n: int, opened: int, repeat: int
) -> tuple[dict[str, list[Pair]], dict[str, str]]:
    """Return the rounds of each peer, and the last error of those that failed."""
    done: dict[str, list[Pair]] = {name: [] for name in names}
    failed: dict[str, str] = {}
    with served(mode) as server:
        for number in range(repeat):
            for name in names:
                print(f"round {number + 1}: {name}", file=sys.stderr, flush=True)
                try:
                    few = one(name, server, FEW, opened) if mode == "instant" else None
                    done[name].append((few, one(name, server, n, opened)))
                except PeerFailed as failure:
                    failed[name] = str(failure)
    return done, failed


def one(name: str, server: Server, n: int, opened: int) -> Run:
    """Run once, against a server with an empty cache."""
    server.rest()
    server.reset()
    with folder() as state:
        return drive(name, server, n, opened, state)


def per_call(pair: Pair) -> float:
    """Return the marginal CPU cost of a call, in milliseconds."""
    few, many = pair
    assert few is not None, "instant mode has short runs"
    return 1000 * (many.cpu_s - few.cpu_s) / (many.calls - few.calls)


def spread(values: Sequence[float], digits: int) -> str:
    """Median [minimum - maximum]."""
    if not values:
        return "-"
    low, middle, high = min(values), statistics.median(values), max(values)
    if len(values) == 1:
        return f"{middle:,.{digits}f}"
    return f"{middle:,.{digits}f} [{low:,.{digits}f} - {high:,.{digits}f}]"


def ratios(
    pairs: Sequence[Pair], bases: Sequence[Pair], figure: Callable[[Pair], float]
) -> list[float]:
    """Return the ratios to the baseline, round by round, without rounds in which either failed."""
    if len(pairs) != len(bases):  # rounds do not belong together any more
        middle = statistics.median([figure(base) for base in bases]) if bases else 0
        return [figure(pair) / middle for pair in pairs] if middle else []
    return [figure(pair) / figure(base) for pair, base in zip(pairs, bases, strict=True)]


def checks(name: str, pairs: Sequence[Pair], bases: Sequence[Pair]) -> str:
    """Return notes on a peer's work: whether it was complete, and the same as the others'."""
    notes = []
    for _, run in pairs:
        if run.answered != run.calls:
            notes.append(f"{run.answered - run.calls:+} calls")
    if PEERS[name].own_prompts:
        notes.append("own prompts")
    elif pairs and bases and pairs[0][1].prompt_tokens != bases[0][1].prompt_tokens:
        notes.append("OTHER TEXTS")
    return ", ".join(dict.fromkeys(notes))


def instant_row(pairs: Sequence[Pair], bases: Sequence[Pair]) -> list[str]:
    """Return the cells of a row in the table of the cost of a call."""
    return [
        spread([run.answered / run.span_s for _, run in pairs], 0),
        spread([per_call(pair) for pair in pairs], 2),
        spread(ratios(pairs, bases, per_call), 1),
        spread([run.start_s for _, run in pairs], 1),
        spread([run.peak_rss_mb for _, run in pairs], 0),
    ]


def engine_row(pairs: Sequence[Pair], bases: Sequence[Pair]) -> list[str]:
    """Return the cells of a row in the table of the engine's use."""
    runs = [run for _, run in pairs]
    return [
        spread([run.whole_s for run in runs], 1),
        spread(ratios(pairs, bases, lambda pair: pair[1].whole_s), 2),
        spread([run.span_s for run in runs], 1),
        spread([run.completion_tokens / run.span_s for run in runs], 0),
        spread([run.computed_tokens / 1000 for run in runs], 0),
        spread([run.cached_tokens / run.prompt_tokens for run in runs], 2),
        spread([run.cpu_s for run in runs], 1),
    ]


INSTANT = ["calls/s", "CPU ms per call", "ratio to bare", "start-up s", "peak RSS MB"]
ENGINE = ["wall s", "ratio to bare", "span s", "output tokens/s", "prompt tokens computed, 1000s",
          "cached share", "CPU s"]  # fmt: skip


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def comparison(done: dict[str, list[Pair]], failed: dict[str, str], mode: str) -> str:
    """Return the table of `run`."""
    heads, cells = (INSTANT, instant_row) if mode == "instant" else (ENGINE, engine_row)
    bases = done.get(BASELINE, [])
    rows = []
    for name, pairs in done.items():
        version = pairs[-1][1].version if pairs else ""
        notes = [note for note in (checks(name, pairs, bases), failed.get(name, "")) if note]
        title = f"{PEERS[name].title} ({version})" if version else PEERS[name].title
        rows.append([title, *cells(pairs, bases), str(len(pairs)), "; ".join(notes)])
    return table(["peer", *heads, "runs", "notes"], rows)


# -- kill ----------------------------------------------------------------------------------


class Crash(NamedTuple):
    peer: str
    answered: int
    again: int
    """Of these, how many it sent again."""
    in_flight: int
    """Calls that were in flight when it died, and were sent again."""
    end: str
    """How the restarted peer ended."""


def crash(name: str, n: int, opened: int) -> Crash:
    """Kill a peer after half of its calls and start it again."""
    peer = PEERS[name]
    with folder() as state, folder() as logs, served("engine", logs / "log") as server:
        try:
            drive(name, server, n, opened, state, dies_at=n * CALLS / 2)
            return Crash(name, 0, 0, 0, "was faster than its death")
        except PeerFailed as failure:
            server.rest()
            first = lines(logs / "log")
            if not failure.killed:
                return Crash(name, 0, 0, 0, str(failure))
        try:
            drive(name, server, n, opened, state)
            end = "finished"
        except PeerFailed as failure:
            end = str(failure)
        second = lines(logs / "log")[len(first) :]
    paid = Counter(line["digest"] for line in first if line["outcome"] == "answered")
    lost = Counter(line["digest"] for line in first if line["outcome"] == "aborted")
    asked = Counter(line["digest"] for line in second)
    again = (paid & asked).total()
    return Crash(
        name,
        answered=paid.total() - peer.probes,
        again=max(0, again - peer.probes),
        in_flight=(lost & asked).total(),
        end=end,
    )


def lines(log: Path) -> list[dict[str, Any]]:
    """Return the server's log, one entry for each finished request."""
    return [json.loads(line) for line in log.read_bytes().splitlines()]


def crashes(results: Iterable[Crash]) -> str:
    heads = ["peer", "answered at the kill", "asked again", "share", "in flight, sent again", "end"]
    rows = []
    for r in results:
        share = f"{r.again / r.answered:.0%}" if r.answered else "-"
        cells = [str(r.answered), str(r.again), share, str(r.in_flight), r.end]
        rows.append([PEERS[r.peer].title, *cells])
    return table(heads, rows)


# -- command line --------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    building = commands.add_parser("build", help="make the environments")
    building.add_argument("peers", nargs="*", metavar="PEER", default=list(PEERS))
    for command in ("run", "kill"):
        sub = commands.add_parser(command)
        sub.add_argument("--peers", nargs="+", choices=list(PEERS), metavar="PEER")
        sub.add_argument("--n", type=int, default=300 if command == "run" else 100)
        sub.add_argument("--open", type=int, default=256, help="in flight")
        sub.add_argument("--out", type=Path, help="JSON file for all figures")
        if command == "run":
            sub.add_argument("--mode", choices=list(MODES), default="instant")
            sub.add_argument("--repeat", type=int, default=3, help="rounds")
    given = parser.parse_args()
    if given.command == "build":
        unknown = set(given.peers) - set(PEERS)
        if unknown:
            parser.error(f"no peer {', '.join(unknown)}; choose from {', '.join(PEERS)}")
        return min(build(given.peers), 1)
    if given.command == "kill":
        return killed(given)
    if given.mode == "instant" and given.n <= FEW:
        parser.error(
            f"--n must be more than {FEW}: the cost of a call is a slope between two lengths of run"
        )
    return run(given)


def run(given: argparse.Namespace) -> int:
    names = given.peers or [name for name, peer in PEERS.items() if not peer.kill_only]
    done, failed = compare(names, given.mode, given.n, given.open, given.repeat)
    print(f"{given.mode}: {given.n} dialogues, {given.open} in flight, {given.repeat} rounds")
    print(comparison(done, failed, given.mode))
    if given.out:
        runs = [
            {"few": few and few._asdict(), **many._asdict()}
            for pairs in done.values()
            for few, many in pairs
        ]
        given.out.write_text(json.dumps({"runs": runs, "failed": failed}, indent=1), "utf-8")
    return 0


def killed(given: argparse.Namespace) -> int:
    names = given.peers or [name for name, peer in PEERS.items() if peer.resumes]
    results = []
    for name in names:
        print(f"kill: {name}", file=sys.stderr, flush=True)
        results.append(crash(name, given.n, given.open))
    print(f"kill: {given.n} dialogues, {given.open} in flight, SIGKILL after half of the calls")
    print(crashes(results))
    if given.out:
        found = [result._asdict() for result in results]
        given.out.write_text(json.dumps(found, indent=1), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
