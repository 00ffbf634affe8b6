"""Fetches a source's bytes: ``data:`` URLs, ``http(s)``, local files.

    url.py        one parser; the URL that it normalises is the one that is fetched
    addresses.py  which network addresses are public
    policy.py     what the operator allows
    http.py       one pool of connections, each pinned to an address that was checked
    local.py      files, opened below a root by descriptors
    data_url.py   ``data:`` URLs and base64
    fetcher.py    an event loop of its own, with bounds, deadlines and shared fetches

Nothing here knows what the bytes are, and no media type is trusted. A message names the reason
and the host, and never a user name, a query or a body: they may hold secrets.
"""

from sensorium.media.fetch.resolve import is_url, resolve

__all__ = ["is_url", "resolve"]
