"""``HttpUrl``: an ``http(s)`` URL, parsed once.

What is checked is what is fetched: a URL is parsed once, by the rules that browsers follow (WHATWG
URL: backslashes are slashes, tabs and line ends are dropped, the last ``@`` ends the user's name,
hosts are percent-decoded, mapped by UTS 46 and read as IPv4 wherever they end in a number), and
only the parts that came out of it are ever sent. It knows nothing of what is allowed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import unquote_to_bytes

import idna

from sensorium.errors import MediaError

DEFAULT_PORTS = {"http": 80, "https": 443}
_C0_OR_SPACE = "".join(map(chr, range(33)))
_DROPPED = {ord(character): None for character in "\t\n\r"}
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
# Forbidden domain code points.
_FORBIDDEN_HOST = re.compile(r"[\x00-\x20\"#%/:<>?@\[\\\]^`{|}\x7f]")
_NUMBER = re.compile(r"0[xX][0-9A-Fa-f]*|[0-9]+")
_PATH_SAFE = frozenset(range(0x21, 0x7F)) - frozenset(b'"#<>?`{}^')
_QUERY_SAFE = frozenset(range(0x21, 0x7F)) - frozenset(b"\"#<>'")


@dataclass(frozen=True, slots=True)
class HttpUrl:
    """A URL in parts, each normalised.

    Attributes:
        scheme: "http" or "https".
        host: a name in ASCII, lower case, no dot at its end; or an address, IPv6 in brackets.
        port: the scheme's own if none was written.
        target: path and query as they are sent.
        credentials: "user:password", decoded, or None.
    """

    scheme: str
    host: str
    port: int
    target: str
    credentials: bytes | None = None

    @property
    def authority(self) -> str:
        """The host, with the port where it isn't the scheme's own."""
        return self.host if self.port == DEFAULT_PORTS[self.scheme] else f"{self.host}:{self.port}"

    @property
    def origin(self) -> str:
        """The URL as messages may show it."""
        return f"{self.scheme}://{self.authority}"

    def join(self, reference: str) -> HttpUrl:
        """The URL that a redirect to ``reference`` means.

        Raises:
            MediaError: it is no ``http(s)`` URL.
        """
        reference = _trimmed(reference)
        if _SCHEME.match(reference):
            return parse_url(reference)
        rest = _slashes(reference)
        if rest.startswith("//"):
            return parse_url(f"{self.scheme}:{rest}")
        path = self.target.partition("?")[0]
        if rest.startswith("/"):
            target = rest
        elif rest.startswith("?"):
            target = path + rest
        elif not rest.partition("#")[0]:
            target = self.target
        else:
            target = path.rpartition("/")[0] + "/" + rest
        return replace(self, target=_target(target.partition("#")[0]))


def parse_url(text: str) -> HttpUrl:
    """Reads an absolute URL.

    Raises:
        MediaError: not a valid ``http(s)`` URL; the message names the fault without the URL.
    """
    text = _trimmed(text)
    match = _SCHEME.match(text)
    scheme = match[1].lower() if match else ""
    if match is None or scheme not in DEFAULT_PORTS:
        raise MediaError(f"a URL's scheme is {scheme[:20]!r}; fetched are http and https.")
    rest = text[match.end() :].lstrip("/\\")
    end = min((rest.index(c) for c in "/\\?#" if c in rest), default=len(rest))
    user, at, host_port = rest[:end].rpartition("@")
    host_text, port = _split_port(host_port, scheme)
    return HttpUrl(
        scheme=scheme,
        host=normalise_host(host_text),
        port=port,
        target=_target(rest[end:].partition("#")[0]),
        credentials=_credentials(user) if at else None,
    )


def normalise_host(text: str) -> str:
    """A host as it is compared, checked and connected to.

    Raises:
        MediaError: it is no valid host.
    """
    if text.startswith("["):
        return _ipv6(text)
    try:
        name = unquote_to_bytes(text).decode("utf-8")
        if not name.isascii() or "xn--" in name.lower():
            name = idna.encode(name.lower(), uts46=True).decode("ascii")
    except (UnicodeError, ValueError):  # idna's errors are UnicodeErrors
        raise MediaError("the URL's host is no valid name.") from None
    name = name.lower().removesuffix(".")
    if not name or len(name) > 253 or _FORBIDDEN_HOST.search(name):
        raise MediaError("the URL's host is empty or holds a character that no host may have.")
    if any(not label or len(label) > 63 for label in name.split(".")):
        raise MediaError("the URL's host has an empty or overlong part.")
    last = name.rpartition(".")[2]
    if last.isdigit() or re.fullmatch(r"0x[0-9a-f]*", last):
        return _ipv4(name)
    return name


def _trimmed(text: str) -> str:
    return text.strip(_C0_OR_SPACE).translate(_DROPPED)


def _split_port(host_port: str, scheme: str) -> tuple[str, int]:
    host, port = host_port, ""
    if ":" in host_port.rpartition("]")[2]:
        host, _, port = host_port.rpartition(":")
    if not port:
        return host, DEFAULT_PORTS[scheme]
    digits = port.lstrip("0")
    if not port.isascii() or not port.isdigit() or len(digits) > 5 or not 0 < int(port) < 65536:
        raise MediaError("the URL's port is no number from 1 to 65535.")
    return host, int(digits)


def _credentials(user: str) -> bytes:
    name, _, password = user.partition(":")
    return unquote_to_bytes(name) + b":" + unquote_to_bytes(password)


def _ipv6(text: str) -> str:
    try:
        address = IPv6Address(text[1:-1]) if text.endswith("]") else None
    except ValueError:
        address = None
    if address is None or address.scope_id is not None:
        raise MediaError("the URL's host is no valid IPv6 address (zones aren't allowed).")
    return f"[{address}]"


def _ipv4(name: str) -> str:
    """WHATWG's IPv4 parser: one to four numbers, octal and hexadecimal too; the last fills up."""
    parts = name.split(".")
    if len(parts) > 4 or not all(_NUMBER.fullmatch(part) for part in parts):
        raise MediaError("the URL's host ends in a number but is no IPv4 address.")
    try:
        *leading, last = (_ipv4_number(part) for part in parts)
    except ValueError:
        raise MediaError("the URL's host holds a number that is none.") from None
    if any(number > 255 for number in leading) or last >= 256 ** (4 - len(leading)):
        raise MediaError("the URL's host is an IPv4 address out of range.")
    value = last + sum(number << 8 * (3 - index) for index, number in enumerate(leading))
    return str(IPv4Address(value))


def _ipv4_number(text: str) -> int:
    if text.startswith("0x"):
        return int(text[2:] or "0", 16)
    return int(text, 8) if text.startswith("0") else int(text)


def _slashes(text: str) -> str:
    path, mark, query = text.partition("?")
    return path.replace("\\", "/") + mark + query


def _target(text: str) -> str:
    path, mark, query = text.partition("?")
    kept: list[str] = []
    segments = path.replace("\\", "/").removeprefix("/").split("/")
    for index, segment in enumerate(segments):
        dots = re.sub("%2e", ".", segment, flags=re.IGNORECASE)
        is_last = index == len(segments) - 1
        if dots == "..":
            if kept:
                kept.pop()
        elif dots != ".":
            kept.append(_escaped(segment, _PATH_SAFE))
            continue
        if is_last:
            kept.append("")
    target = "/" + "/".join(kept)
    return target + "?" + _escaped(query, _QUERY_SAFE) if mark else target


def _escaped(text: str, safe: frozenset[int]) -> str:
    if all(ord(character) in safe for character in text):
        return text
    data = text.encode("utf-8", "replace")
    return "".join(chr(byte) if byte in safe else f"%{byte:02X}" for byte in data)
