"""nginx before a server, as gateways have it: TLS by a private authority, a path prefix, gzip."""

from __future__ import annotations

import ssl
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

import sdsd
from tests.helpers.real_servers import Served, free_port, running
from tests.helpers.small_runs import assert_sound, config, seen

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("train")]  # they share the model

CONFIG = """
daemon off;
master_process off;
pid {folder}/pid;
error_log stderr warn;
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{plain};
    location = /up {{ return 200; }}
    location /models/smol/ {{
      proxy_pass {upstream}/;
      proxy_read_timeout 600s;
      gzip on;
      gzip_types application/json text/plain;
      gzip_min_length 1;
      gzip_proxied any;
    }}
  }}
  server {{
    listen 127.0.0.1:{secure} ssl;
    ssl_certificate {folder}/server.pem;
    ssl_certificate_key {folder}/server.key;
    location / {{
      proxy_pass http://127.0.0.1:{plain};
      proxy_read_timeout 600s;
      proxy_set_header Accept-Encoding gzip;  # whatever the client has asked for
      proxy_http_version 1.1;
    }}
  }}
}}
"""


def openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def gateway(
    nginx: str, server: Served, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path]]:
    """The address of the gateway, and the certificate of the authority that it is signed by."""
    folder = tmp_path_factory.mktemp("nginx")
    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    openssl(
        folder, "req", "-x509", *new, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=Ours"
    )
    openssl(
        folder, "req", "-x509", *new, "-keyout", "server.key", "-out", "server.pem",
        "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
        "-addext", "basicConstraints=critical,CA:FALSE", "-CA", "ca.pem", "-CAkey", "ca.key",
    )  # fmt: skip
    plain, secure = free_port(), free_port()
    text = CONFIG.format(
        folder=folder, plain=plain, secure=secure, upstream=server.url.removesuffix("/v1")
    )
    (folder / "nginx.conf").write_text(text)
    line = [nginx, "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf")]
    with running(line, plain, folder / "log", health="/up"):
        yield f"https://localhost:{secure}/models/smol/v1", folder / "ca.pem"


@pytest.fixture
def trusted(gateway: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> str:
    """The gateway's address, once its authority is trusted."""
    url, authority = gateway
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    return url


def test_it_is_what_it_is_meant_to_be(gateway: tuple[str, Path]) -> None:
    url, authority = gateway
    context = ssl.create_default_context(cafile=authority)
    with urllib.request.urlopen(f"{url}/models", context=context) as reply:
        assert reply.headers["Content-Encoding"] == "gzip"


def test_an_unknown_authority_is_explained(gateway: tuple[str, Path]) -> None:
    found = seen({"model": "smol", "base_url": gateway[0], "outage": 1})
    assert found["model"].ok is False
    assert "SSL_CERT_FILE" in found["model"].text


def test_doctor_sees_through_it(trusted: str, server: Served) -> None:
    measured = ("reachable", "speed", "chat")
    through, directly = (
        {name: d.text for name, d in seen({"model": "smol", "base_url": url}).items()}
        for url in (trusted, server.url)
    )
    assert through["reachable"] == trusted
    for name in measured:
        del through[name], directly[name]
    assert through == directly


def test_a_run_goes_through_it(trusted: str, plans: Path, tmp_path: Path) -> None:
    made = sdsd.run(
        config({"model": "smol", "base_url": trusted}, plans, "continuation"), out=tmp_path / "run"
    )
    assert_sound(made, 2)
