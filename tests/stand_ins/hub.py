"""A stand-in for the Hugging Face hub: the routes that its client really calls, over a socket.

It keeps data sets as commits of files, takes large files by the LFS protocol (with
`HF_HUB_DISABLE_XET=1`, since the other one needs a service of its own), and believes only the
tokens it was given. `stall_after` lets so many uploads pass, and answers no other one; `repeats`
refuses every request with its headers as the reason.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from aiohttp import web

LARGE = (".parquet", ".html")
"""What the hub takes as large files; the rest travels inside the commit."""


class Repo:
    """One data set: its commits, the newest last."""

    def __init__(self, private: bool) -> None:
        self.private = private
        self.commits: list[tuple[str, dict[str, bytes]]] = []
        self.messages: list[str] = []
        self.add("initial commit", {".gitattributes": b"*.parquet filter=lfs\n"})

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1][1]

    def add(self, message: str, files: dict[str, bytes]) -> str:
        parts = [f"{name}\0".encode() + data for name, data in sorted(files.items())]
        number = str(len(self.commits)).encode()
        oid = hashlib.sha1(number + b"\0".join(parts)).hexdigest()
        self.commits.append((oid, files))
        self.messages.append(message)
        return oid

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        if revision == "main":
            return self.commits[-1]
        return next((commit for commit in self.commits if commit[0] == revision), None)


class HubStandIn:
    """The hub's state and routes."""

    def __init__(self, tokens: dict[str, str]) -> None:
        self.tokens = tokens
        """By token, the name that may be written to."""
        self.url = ""
        self.closing = asyncio.Event()
        self.forget()

    def forget(self) -> None:
        """Begin anew, empty."""
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.uploads: list[str] = []
        """Digests of the large files that were sent, in order."""
        self.stall_after: int | None = None
        self.stalled = threading.Event()
        self.repeats = False
        self.meddle = False
        """Somebody else commits just before the next commit."""

    def app(self) -> web.Application:
        app = web.Application(client_max_size=1 << 30, middlewares=[self._guard])
        repo = "/api/datasets/{org}/{name}"
        app.router.add_post("/api/repos/create", self._create)
        app.router.add_get(repo, self._info)
        app.router.add_get(repo + "/revision/{revision}", self._info)
        app.router.add_get(repo + "/tree/{revision}", self._tree)
        app.router.add_post(repo + "/preupload/{revision}", self._preupload)
        app.router.add_post(repo + "/commit/{revision}", self._commit)
        app.router.add_post("/api/validate-yaml", self._validate)
        app.router.add_post("/datasets/{org}/{name}.git/info/lfs/objects/batch", self._batch)
        app.router.add_put("/store/{oid}", self._store)
        return app

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Who may see and write what, as the hub says it."""
        who = self._who(request)
        if self.repeats:
            return _error(403, f"Forbidden for {dict(request.headers)}")
        org, name = (request.match_info.get(key) for key in ("org", "name"))
        if org is not None:
            repo = self.repos.get(f"{org}/{name}")
            if repo is None or (repo.private and who != org):
                return _error(404 if who else 401, "Repository Not Found", "RepoNotFound")
            if request.method == "POST" and who != org:
                return _error(403, "Forbidden: you may not write here")
        return await handler(request)

    def _who(self, http: web.Request) -> str | None:
        return self.tokens.get(http.headers.get("Authorization", "").removeprefix("Bearer "))

    def _repo(self, http: web.Request) -> Repo:
        return self.repos["{org}/{name}".format(**http.match_info)]

    async def _create(self, http: web.Request) -> web.Response:
        wanted = await http.json()
        who, org = self._who(http), wanted["organization"]
        if who is None:
            return _error(401, "Invalid username or password.")
        if who != org:
            return _error(403, f"You don't have the rights to create a dataset under {org}")
        name = f"{org}/{wanted['name']}"
        url = {"url": f"{self.url}/datasets/{name}"}
        if name in self.repos:
            return web.json_response(url | {"error": "You already created this"}, status=409)
        self.repos[name] = Repo(private=wanted.get("visibility") == "private")
        return web.json_response(url)

    async def _info(self, http: web.Request) -> web.Response:
        repo = self._repo(http)
        found = repo.at(http.match_info.get("revision", "main"))
        if found is None:
            return _error(404, "Invalid rev id", "RevisionNotFound")
        name = f"{http.match_info['org']}/{http.match_info['name']}"
        return web.json_response(
            {"id": name, "sha": found[0], "private": repo.private, "siblings": [], "tags": []}
        )

    async def _tree(self, http: web.Request) -> web.Response:
        _, files = self._repo(http).at(http.match_info["revision"]) or ("", {})
        listed: list[dict[str, Any]] = [
            {"type": "directory", "path": folder, "oid": "0" * 40, "size": 0}
            for folder in sorted({p.rpartition("/")[0] for p in files} - {""})
        ]
        for path, data in sorted(files.items()):
            entry = {"type": "file", "path": path, "size": len(data), "oid": _git_oid(data)}
            if path.endswith(LARGE):
                oid = hashlib.sha256(data).hexdigest()
                entry["lfs"] = {"oid": oid, "size": len(data), "pointerSize": 134}
            listed.append(entry)
        return web.json_response(listed)

    async def _preupload(self, http: web.Request) -> web.Response:
        files = self._repo(http).files
        answer = []
        for file in (await http.json())["files"]:
            path = file["path"]
            large = path.endswith(LARGE)
            old = files.get(path)
            digest = hashlib.sha256(old or b"").hexdigest() if large else _git_oid(old or b"")
            known = {} if old is None else {"oid": digest}
            mode = "lfs" if large else "regular"
            answer.append({"path": path, "uploadMode": mode, "shouldIgnore": False} | known)
        return web.json_response({"files": answer})

    async def _batch(self, http: web.Request) -> web.Response:
        objects = []
        for wanted in (await http.json())["objects"]:
            entry = dict(wanted)
            if wanted["oid"] not in self.objects:
                entry["actions"] = {"upload": {"href": f"{self.url}/store/{wanted['oid']}"}}
            objects.append(entry)
        return web.json_response({"transfer": "basic", "objects": objects})

    async def _store(self, http: web.Request) -> web.Response:
        if self.stall_after is not None and len(self.uploads) >= self.stall_after:
            self.stalled.set()
            await self.closing.wait()
            raise web.HTTPServiceUnavailable
        data = await http.read()
        oid = http.match_info["oid"]
        assert hashlib.sha256(data).hexdigest() == oid
        self.objects[oid] = data
        self.uploads.append(oid)
        return web.Response()

    async def _validate(self, http: web.Request) -> web.Response:
        assert (await http.json())["repoType"] == "dataset"
        return web.json_response({"errors": [], "warnings": []})

    async def _commit(self, http: web.Request) -> web.Response:
        repo = self._repo(http)
        if self.meddle:
            repo.add("by somebody else", repo.files)
        files = dict(repo.files)
        lines = [json.loads(line) for line in (await http.read()).splitlines()]
        header, *changes = lines
        parent = header["value"].get("parentCommit")
        if parent is not None and parent != repo.commits[-1][0]:
            return _error(412, "A commit has happened since. Please refresh and try again.")
        for change in changes:
            value = change["value"]
            if change["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif change["key"] == "lfsFile":
                files[value["path"]] = self.objects[value["oid"]]
            else:
                del files[value["path"]]
        oid = repo.add(header["value"]["summary"], files)
        here = "{}/datasets/{org}/{name}".format(self.url, **http.match_info)
        return web.json_response({"commitOid": oid, "commitUrl": f"{here}/commit/{oid}"})


def _error(status: int, words: str, code: str = "") -> web.Response:
    headers = {"X-Error-Message": words} | ({"X-Error-Code": code} if code else {})
    return web.json_response({"error": words}, status=status, headers=headers)


def _git_oid(data: bytes) -> str:
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()


@contextlib.contextmanager
def serving(hub: HubStandIn) -> Iterator[HubStandIn]:
    """Serve on loopback, on a thread of its own."""
    loop = asyncio.new_event_loop()
    ready = threading.Event()

    async def serve() -> None:
        runner = web.AppRunner(hub.app(), access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        hub.url = "http://{}:{}".format(*runner.addresses[0][:2])
        ready.set()
        await hub.closing.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    ready.wait()
    try:
        yield hub
    finally:
        loop.call_soon_threadsafe(hub.closing.set)
        thread.join()
        loop.close()
