"""Which addresses are public, held against the ipaddress module and against written-out cases."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensorium.media.fetch.addresses import is_public, parse_network, within

PUBLIC = ["8.8.8.8", "1.1.1.1", "93.184.216.34", "2606:4700::1111", "2001:4860:4860::8888"]
PUBLIC += ["64:ff9b::8.8.8.8", "::ffff:8.8.8.8", "2002:808:808::1", "172.32.0.1", "11.0.0.1"]
NOT_PUBLIC = [
    "0.0.0.0",
    "10.1.2.3",
    "100.64.0.1",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.169.254",
]
NOT_PUBLIC += [
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "192.0.0.1",
    "192.0.2.1",
    "198.18.0.1",
]
NOT_PUBLIC += ["224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255", "192.88.99.1"]
NOT_PUBLIC += ["::", "::1", "fe80::1", "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1", "100::1"]
NOT_PUBLIC += ["::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::127.0.0.1"]
NOT_PUBLIC += ["64:ff9b:1::1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2002:a9fe:a9fe::1"]
NOT_PUBLIC += ["2001::1", "2001:db8::1", "3fff::1", "5f00::1", "4000::1"]


@pytest.mark.parametrize("text", PUBLIC)
def test_public(text: str) -> None:
    assert is_public(ip_address(text))


@pytest.mark.parametrize("text", NOT_PUBLIC)
def test_not_public(text: str) -> None:
    assert not is_public(ip_address(text))


def test_a_zone_is_never_public() -> None:
    assert not is_public(ip_address("2606:4700::1111%eth0"))


@given(st.integers(0, 2**32 - 1))
def test_what_ipaddress_calls_private_is_not_public(number: int) -> None:
    address = IPv4Address(number)
    local = address.is_private or address.is_multicast or address.is_reserved
    assert not (local and is_public(address))
    for inner in (IPv6Address(0xFFFF << 32 | number), IPv6Address((0x64FF9B << 96) | number)):
        assert is_public(inner) == is_public(address)


@given(st.integers(0, 2**128 - 1))
def test_v6_likewise(number: int) -> None:
    address = IPv6Address(number)
    local = address.is_private or address.is_multicast or address.is_link_local
    if address.ipv4_mapped is None and address not in ip_network("64:ff9b::/96"):
        assert not (local and is_public(address))


def test_networks_hold_embedded_addresses_too() -> None:
    network = parse_network("10.0.0.0/8")
    assert network is not None
    assert within(ip_address("10.1.2.3"), network)
    assert within(ip_address("::ffff:10.1.2.3"), network)
    assert not within(ip_address("11.1.2.3"), network)
    assert not within(ip_address("::1"), network)
    assert parse_network("[::1]") == ip_network("::1/128")
    assert parse_network("localhost") is None
