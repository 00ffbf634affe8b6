"""https: the connection goes to the address that was checked, and the certificate must be for the
name in the URL."""

from __future__ import annotations

import re
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import httpcore2
import pytest
import trustme
from hostile_server import HostileServer, LoopbackConnector, Names, answer, fetch, redirect

from sensorium.errors import EngineError, MediaError
from sensorium.media.fetch.policy import MAX_ATTEMPTS, FetchPolicy
from sensorium.types import BytesSource

PUBLIC = "93.184.216.34"


class SecureServer(HostileServer):
    """An https server on loopback.

    Args:
        certificate: what it shows, whichever name it is asked for.

    Attributes:
        asked_names: the names that clients said they were connecting to.
    """

    def __init__(self, certificate: trustme.LeafCert) -> None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(tls)
        self.asked_names: list[str | None] = []
        tls.sni_callback = lambda _, name, __: self.asked_names.append(name)
        super().__init__(tls)
        self.scripts["/x"] = answer(b"got it")


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """An authority that is trusted, and no other."""
    made = trustme.CA()
    made.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    return made


@pytest.fixture
def server(authority: trustme.CA) -> Iterator[SecureServer]:
    """media.example."""
    with SecureServer(authority.issue_cert("media.example")) as made:
        yield made


def test_the_address_is_pinned_and_the_name_is_verified(server: SecureServer) -> None:
    connector = LoopbackConnector(server.port)
    names = Names(media_example=[[PUBLIC], ["10.0.0.1"]])
    url = "https://media.example/x"
    fetched = fetch(url, FetchPolicy(), resolver=names, connector=connector)
    assert fetched == BytesSource(b"got it", None)
    assert names.calls == ["media.example"], "a second answer would be another address"
    assert connector.connected == [PUBLIC]
    assert server.asked_names == ["media.example"]
    assert server.requests[0].headers["host"] == "media.example"


def test_an_internationalised_name(authority: trustme.CA) -> None:
    with SecureServer(authority.issue_cert("b\u00fccher.example")) as server:
        connector = LoopbackConnector(server.port)
        names = Names(**{"xn--bcher-kva_example": [PUBLIC]})
        url = "https://B\u00dcCHER.example./x"
        assert fetch(url, FetchPolicy(), resolver=names, connector=connector).data == b"got it"
        assert server.asked_names == ["xn--bcher-kva.example"]


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_an_address_as_host(authority: trustme.CA, host: str) -> None:
    with SecureServer(authority.issue_cert(host.strip("[]"))) as server:
        connector = LoopbackConnector(server.port)
        url = f"https://{host}/x"
        assert fetch(url, FetchPolicy(private=True), connector=connector).data == b"got it"
        assert connector.connected == [host.strip("[]")]
        assert server.asked_names == [None], "an address is no server name (RFC 6066)"


def test_a_name_that_the_certificate_does_not_have(server: SecureServer) -> None:
    connector = LoopbackConnector(server.port)
    names = Names(evil_example=[PUBLIC])
    sentence = "the certificate of https://evil.example is refused: it was issued for another name."
    with pytest.raises(MediaError, match=f"^{re.escape(sentence)}$"):
        fetch("https://evil.example/x", FetchPolicy(), resolver=names, connector=connector)
    assert server.requests == [], "nothing was sent"
    assert connector.connected == [PUBLIC], "a certificate doesn't get better by asking again"


def test_an_address_that_the_certificate_does_not_have(server: SecureServer) -> None:
    with pytest.raises(MediaError, match="it was issued for another address"):
        fetch(server.url("/x"), FetchPolicy(private=True))
    assert server.requests == []


def test_an_authority_that_nobody_trusts(authority: trustme.CA) -> None:
    with SecureServer(trustme.CA().issue_cert("127.0.0.1")) as server:
        with pytest.raises(MediaError, match="refused: no known authority has signed it"):
            fetch(server.url("/x"), FetchPolicy(private=True))
        assert server.requests == []


def test_a_server_that_speaks_no_tls(authority: trustme.CA) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            for _ in range(MAX_ATTEMPTS):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=refuse, daemon=True)
        thread.start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/x"
        with pytest.raises(MediaError, match=f"^no connection to {url[:-2]} could be made"):
            fetch(url, FetchPolicy(private=True))
        thread.join(30)
        assert not thread.is_alive()


def test_redirects_between_http_and_https(server: SecureServer) -> None:
    """Each hop is resolved, checked and verified anew; credentials stay where they were given."""
    with HostileServer() as plain:
        plain.scripts["/x"] = answer(b"plain")
        plain.scripts["/up"] = redirect(f"https://media.example:{server.port}/x")
        server.scripts["/down"] = redirect(plain.url("/x"))
        server.scripts["/inside"] = redirect("https://10.0.0.1/x")

        def get(url: str, policy: FetchPolicy) -> tuple[bytes, list[str]]:
            ports = LoopbackConnector(server.port, keeps_ports=True)
            names = Names(media_example=[PUBLIC])
            return fetch(url, policy, resolver=names, connector=ports).data, ports.connected

        here = FetchPolicy.from_options(private_hosts=["127.0.0.1"])
        assert get(plain.url("/up"), here) == (b"got it", ["127.0.0.1", PUBLIC])
        url = f"https://user:secret@media.example:{server.port}/down"
        assert get(url, here) == (b"plain", [PUBLIC, "127.0.0.1"])
        assert "authorization" in server.requests[-1].headers
        assert "authorization" not in plain.requests[-1].headers
        with pytest.raises(MediaError, match=r"10\.0\.0\.1 isn't on the public Internet"):
            get(f"https://media.example:{server.port}/inside", here)


def test_authorities_are_read_once(server: SecureServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """They take longer to read than a connection to make."""
    read: list[None] = []
    real = httpcore2.default_ssl_context

    def counted() -> ssl.SSLContext:
        read.append(None)
        return real()

    monkeypatch.setattr(httpcore2, "default_ssl_context", counted)
    connector = LoopbackConnector(server.port)
    names = Names(media_example=[PUBLIC])
    targets = [f"/{index}" for index in range(6)]
    server.scripts.update({target: answer(b"one of many") for target in targets})
    urls = [f"https://media.example{target}" for target in targets]
    outcomes = fetch(urls, FetchPolicy(), resolver=names, connector=connector)
    assert [outcome.data for outcome in outcomes] == [b"one of many"] * 6
    assert len(read) == 1


def test_authorities_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty.pem").write_text("no certificate")
    for path in (tmp_path / "missing.pem", tmp_path / "empty.pem"):
        monkeypatch.setenv("SSL_CERT_FILE", str(path))
        with pytest.raises(EngineError, match="SSL_CERT_FILE or SSL_CERT_DIR names can't be read"):
            fetch("https://127.0.0.1:1/x", FetchPolicy(private=True))
