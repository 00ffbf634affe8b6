"""TLS for fetching: whom certificates must come from, and what is wrong with one.

Authorities are the system's, or those of the file or folder that the environment names
(``SSL_CERT_FILE``, ``SSL_CERT_DIR``, as OpenSSL reads them).
"""

from __future__ import annotations

import asyncio
import ssl

import httpcore2

from sensorium.errors import EngineError

#: OpenSSL's ``X509_V_ERR_*`` (openssl/x509_vfy.h) → the end of a sentence
_FAULTS = {
    9: "it isn't valid yet",
    10: "it has expired",
    62: "it was issued for another name",
    64: "it was issued for another address",
}


class Authorities:
    """The context of all TLS connections of one client, read when it is first needed.

    Reading the system's authorities takes tens of milliseconds, more than a connection does.
    """

    def __init__(self) -> None:
        self._context: ssl.SSLContext | None = None
        self._lock = asyncio.Lock()

    async def context(self) -> ssl.SSLContext:
        """The context.

        Raises:
            EngineError: the environment names authorities that can't be read.
        """
        async with self._lock:
            if self._context is None:
                try:
                    self._context = await asyncio.to_thread(httpcore2.default_ssl_context)
                except OSError:  # ssl.SSLError included
                    raise EngineError(
                        "no https URL can be fetched: the certificates that SSL_CERT_FILE or "
                        "SSL_CERT_DIR names can't be read."
                    ) from None
            return self._context


def certificate_fault(error: BaseException | None) -> str | None:
    """What is wrong with a server's certificate, as the end of a sentence; None if the connection
    failed for another reason."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return _FAULTS.get(error.verify_code, "no known authority has signed it")
        error = error.__cause__ or error.__context__
    return None
