"""What an operator's options allow."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest

from sensorium.errors import ConfigError, MediaError
from sensorium.media.fetch.policy import FetchPolicy, timeout_variable
from sensorium.media.fetch.url import parse_url


def allows(policy: FetchPolicy, host: str, address: str) -> bool:
    try:
        policy.check_url(parse_url(f"http://{host}/"))
        policy.check_address(host, ip_address(address))
    except MediaError:
        return False
    return True


@pytest.mark.parametrize(
    ("options", "host", "address", "allowed"),
    [
        ({}, "a.example", "8.8.8.8", True),
        ({}, "a.example", "10.0.0.1", False),
        ({"private_hosts": True}, "a.example", "10.0.0.1", True),
        ({"private_hosts": ["a.example"]}, "a.example", "10.0.0.1", True),
        ({"private_hosts": ["a.example"]}, "b.example", "10.0.0.1", False),
        ({"private_hosts": ["*.example"]}, "b.example", "10.0.0.1", True),
        ({"private_hosts": ["10.0.0.0/8"]}, "b.example", "10.9.0.1", True),
        ({"private_hosts": ["10.0.0.0/8"]}, "b.example", "127.0.0.1", False),
        ({"private_hosts": ["127.0.0.1"]}, "127.1", "127.0.0.1", True),
        ({"private_hosts": ["::1"]}, "[::1]", "::1", True),
        ({"private_hosts": []}, "a.example", "10.0.0.1", False),
        ({"domains": ["a.example"]}, "a.example", "8.8.8.8", True),
        ({"domains": ["a.example"]}, "A.Example.", "8.8.8.8", True),
        ({"domains": ["a.example"]}, "b.a.example", "8.8.8.8", False),
        ({"domains": ["a.example"]}, "evila.example", "8.8.8.8", False),
        ({"domains": ["*.a.example"]}, "b.a.example", "8.8.8.8", True),
        ({"domains": ["*.a.example"]}, "c.b.a.example", "8.8.8.8", True),
        ({"domains": ["*.a.example"]}, "a.example", "8.8.8.8", False),
        ({"domains": ["*.a.example"]}, "evila.example", "8.8.8.8", False),
        ({"domains": ["bücher.example"]}, "xn--bcher-kva.example", "8.8.8.8", True),
        # Domains alone never open a private address.
        ({"domains": ["a.example"]}, "a.example", "10.0.0.1", False),
        ({"domains": ["127.0.0.1"]}, "127.0.0.1", "127.0.0.1", False),
        ({"domains": []}, "a.example", "8.8.8.8", False),
    ],
)
def test_hosts_and_addresses(options: Any, host: str, address: str, allowed: bool) -> None:
    assert allows(FetchPolicy.from_options(**options), host, address) == allowed


def test_the_sentences_name_the_host_and_the_option() -> None:
    policy = FetchPolicy.from_options(domains=["a.example", "127.0.0.1"])
    with pytest.raises(MediaError, match=r"host b\.example isn't among allowed_media_domains"):
        policy.check_url(parse_url("http://user:pw@b.example/secret"))
    with pytest.raises(MediaError, match=r"host 127\.0\.0\.1 isn't on the public Internet; allow_"):
        policy.check_url(parse_url("http://127.1/"))


@pytest.mark.parametrize("host", ["", "http://a", "a/b", "a:80", 3, "*", "a.*", "10.0.0.0/33"])
def test_what_is_no_host(host: Any) -> None:
    for options in ({"domains": [host]}, {"private_hosts": [host]}):
        with pytest.raises(ConfigError, match="allowed are hosts without scheme or port"):
            FetchPolicy.from_options(**options)


def test_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SENSORIUM_MEDIA_URL_ALLOW_REDIRECTS", raising=False)
    assert timeout_variable("x-ray") == "SENSORIUM_X_RAY_FETCH_TIMEOUT"
    assert FetchPolicy.from_options().redirects
    monkeypatch.setenv("SENSORIUM_MEDIA_URL_ALLOW_REDIRECTS", "0")
    monkeypatch.setenv("SENSORIUM_NOTE_FETCH_TIMEOUT", "2.5")
    policy = FetchPolicy.from_options(kinds=["note", "scent"])
    assert not policy.redirects
    assert policy.timeouts_s == {"note": 2.5}
    assert FetchPolicy.from_options(redirects=True).redirects, "the option wins"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SENSORIUM_MEDIA_URL_ALLOW_REDIRECTS", "no"),
        ("SENSORIUM_NOTE_FETCH_TIMEOUT", "soon"),
        ("SENSORIUM_NOTE_FETCH_TIMEOUT", "0"),
        ("SENSORIUM_NOTE_FETCH_TIMEOUT", "inf"),
        ("SENSORIUM_NOTE_FETCH_TIMEOUT", "nan"),
    ],
)
def test_variables_that_say_nothing(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"{name} is {value!r}"):
        FetchPolicy.from_options(kinds=["note"])
