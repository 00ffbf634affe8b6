"""Which network addresses are public.

An address is public if a packet to it leaves for the Internet at large. Everything else (this host,
a private network, a link, a tunnel's or translator's inner address, multicast, reserved blocks) is
not, nor is an address of a public block that a cloud answers to its own machines. The tables follow
the IANA special-purpose address registries (IPv4 and IPv6); they are written out here because
``ipaddress.is_global`` differs between releases of Python.
"""

from __future__ import annotations

from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_NOT_PUBLIC_V4 = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",  # this host on this network
            "10.0.0.0/8",  # private
            "100.64.0.0/10",  # shared by carriers
            "127.0.0.0/8",  # loopback
            "168.63.129.16/32",  # Azure's services for its own machines
            "169.254.0.0/16",  # link-local, where clouds keep their metadata
            "172.16.0.0/12",  # private
            "192.0.0.0/24",  # protocol assignments
            "192.0.2.0/24",  # documentation
            "192.31.196.0/24",  # AS112
            "192.52.193.0/24",  # AMT
            "192.88.99.0/24",  # 6to4 relays
            "192.168.0.0/16",  # private
            "192.175.48.0/24",  # AS112
            "198.18.0.0/15",  # benchmarks
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved, broadcast
        ),
    )
)
_GLOBAL_UNICAST_V6 = IPv6Network("2000::/3")
_NOT_PUBLIC_V6 = tuple(
    map(
        IPv6Network,
        (
            "2001::/23",  # protocol assignments: Teredo, ORCHID, benchmarks
            "2001:db8::/32",  # documentation
            "2620:4f:8000::/48",  # AS112
            "3fff::/20",  # documentation
        ),
    )
)
_MAPPED = IPv6Network("::ffff:0:0/96")
_TRANSLATED = IPv6Network("64:ff9b::/96")  # NAT64
_6TO4 = IPv6Network("2002::/16")


def is_public(address: Address) -> bool:
    """Whether ``address`` is public, so that a URL from any caller may lead to it."""
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            return False
        inner = embedded(address)
        if inner is not None:
            return is_public(inner)
        return address in _GLOBAL_UNICAST_V6 and not any(address in n for n in _NOT_PUBLIC_V6)
    return not any(address in network for network in _NOT_PUBLIC_V4)


def embedded(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address to which packets for a mapped, translated (NAT64) or 6to4 one go."""
    if address in _MAPPED or address in _TRANSLATED:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    if address in _6TO4:
        return IPv4Address(int(address) >> 80 & 0xFFFFFFFF)
    return None


def within(address: Address, network: Network) -> bool:
    """Whether the address, or the one that it embeds, lies in the network."""
    inner = embedded(address) if isinstance(address, IPv6Address) else None
    return any(
        one in network for one in (address, inner) if one is not None and _same(one, network)
    )


def parse_network(text: str) -> Network | None:
    """``10.0.0.0/8``, ``::1`` …; None if the text is not an address or network."""
    try:
        return ip_network(text.strip("[]"), strict=False)
    except ValueError:
        return None


def parse_address(text: str) -> Address | None:
    """An address in its normalised spelling, brackets around IPv6 or not; None for a name."""
    try:
        return ip_address(text.strip("[]"))
    except ValueError:
        return None


def _same(address: Address, network: Network) -> bool:
    return address.version == network.version
