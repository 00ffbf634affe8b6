"""``FetchPolicy``: the sources from which the operator allows fetching. It opens nothing itself."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from sensorium.errors import ConfigError, MediaError, RequestError
from sensorium.media.fetch.addresses import (
    Address,
    Network,
    is_public,
    parse_address,
    parse_network,
    within,
)
from sensorium.media.fetch.url import HttpUrl, normalise_host

REDIRECTS_VARIABLE = "SENSORIUM_MEDIA_URL_ALLOW_REDIRECTS"
#: connections at once, in all and to one host; what waits for one holds nothing
MAX_CONNECTIONS = 128
MAX_CONNECTIONS_PER_HOST = 16
MAX_REDIRECTS = 5
#: attempts at one URL where the connection fails or the server is busy
MAX_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class FetchPolicy:
    """Allowed sources. By default: any public host over ``http(s)``, and no local file.

    Attributes:
        local_path: the folder below which ``file:`` URLs may lie; None: nowhere.
        domains: hosts that ``http(s)`` URLs may name, normalised; a leading ``*.`` stands for one
            or more labels in front. None: all.
        private: whether every address may be connected to.
        private_hosts: names whose addresses may be private (patterns as in ``domains``).
        private_networks: networks that may be connected to though they aren't public.
        redirects: whether redirects are followed; each hop is checked like the first URL.
        use_proxies: whether the environment's proxies are used.
        timeouts_s: kind → seconds for a whole fetch, retries and redirects included; other kinds
            have their own default.
    """

    local_path: str | None = None
    domains: tuple[str, ...] | None = None
    private: bool = False
    private_hosts: tuple[str, ...] = ()
    private_networks: tuple[Network, ...] = ()
    redirects: bool = True
    use_proxies: bool = False
    timeouts_s: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def from_options(
        cls,
        *,
        local_path: str | None = None,
        domains: Sequence[str] | None = None,
        private_hosts: bool | Sequence[str] = False,
        redirects: bool | None = None,
        use_proxies: bool = False,
        kinds: Iterable[str] = (),
    ) -> FetchPolicy:
        """From the engine's options and the environment.

        Args:
            redirects: None: ``SENSORIUM_MEDIA_URL_ALLOW_REDIRECTS``, or yes.
            kinds: those whose ``SENSORIUM_<KIND>_FETCH_TIMEOUT`` are read.

        Raises:
            ConfigError: a value that names no folder, host or network, or no number of seconds.
        """
        names, networks = _split_hosts(() if isinstance(private_hosts, bool) else private_hosts)
        timeouts = {kind: _timeout_s(kind) for kind in kinds}
        return cls(
            local_path=local_path,
            domains=None if domains is None else _patterns("allowed_media_domains", domains),
            private=private_hosts is True,
            private_hosts=names,
            private_networks=networks,
            redirects=_redirects() if redirects is None else redirects,
            use_proxies=use_proxies,
            timeouts_s={kind: seconds for kind, seconds in timeouts.items() if seconds is not None},
        )

    def check_url(self, url: HttpUrl) -> None:
        """Checks what can be seen without resolving the host: called for every hop.

        Raises:
            MediaError: the host isn't allowed, or is itself an address that isn't.
        """
        if self.domains is not None and not _matches(url.host, self.domains):
            raise MediaError(f"the host {url.host} isn't among allowed_media_domains.")
        address = parse_address(url.host)
        if address is not None:
            self.check_address(url.host, address)

    def check_address(self, host: str, address: Address) -> None:
        """Checks an address to which ``host`` resolved.

        Raises:
            MediaError: it isn't public, and nothing allows it.
        """
        if self.private or is_public(address) or _matches(host, self.private_hosts):
            return
        if any(within(address, network) for network in self.private_networks):
            return
        raise MediaError(
            f"the host {host} isn't on the public Internet; allow_private_media_hosts may open it."
        )


def _matches(host: str, patterns: Iterable[str]) -> bool:
    return any(
        host.endswith(pattern[1:]) if pattern.startswith("*.") else host == pattern
        for pattern in patterns
    )


def _patterns(option: str, hosts: Sequence[str]) -> tuple[str, ...]:
    return tuple(_pattern(option, host) for host in hosts)


def _pattern(option: str, host: object) -> str:
    if isinstance(host, str) and "*" not in host.removeprefix("*."):
        prefix = "*." if host.startswith("*.") else ""
        try:
            return prefix + normalise_host(host.removeprefix("*."))
        except RequestError:
            pass
    raise ConfigError(
        f"{option} holds {host!r}; allowed are hosts without scheme or port, such as "
        "media.example.org or *.example.org."
    )


def _split_hosts(hosts: Sequence[str]) -> tuple[tuple[str, ...], tuple[Network, ...]]:
    names: list[str] = []
    networks: list[Network] = []
    for host in hosts:
        network = parse_network(host) if isinstance(host, str) else None
        if network is not None:
            networks.append(network)
        else:
            names.append(_pattern("allow_private_media_hosts", host))
    return tuple(names), tuple(networks)


def _redirects() -> bool:
    text = os.environ.get(REDIRECTS_VARIABLE, "").strip() or "1"
    if text not in ("0", "1"):
        raise ConfigError(f"{REDIRECTS_VARIABLE} is {text!r}; allowed are 0 and 1.")
    return text == "1"


def timeout_variable(kind: str) -> str:
    """The environment variable with the seconds that fetching one item of a kind may take."""
    return f"SENSORIUM_{kind.upper().replace('-', '_')}_FETCH_TIMEOUT"


def _timeout_s(kind: str) -> float | None:
    text = os.environ.get(timeout_variable(kind), "").strip()
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ConfigError(
            f"{timeout_variable(kind)} is {text!r}; it must be a number of seconds above 0."
        )
    return seconds
