"""The mirror as clients reach it: one https client in which every wait ends.

A server may be broken or mean harm: nothing of more than an agreed length is read, no redirect
leads to another host, and nothing is asked for twice as long as its size allows.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx
from cryptography import x509

from puavo_repository.errors import CertificateError, ConnectionLostError, SettingsError
from puavo_repository.retry import with_retries

TIMEOUT = 30.0  # seconds for each wait
SLOWEST = 20_000  # bytes a second; what is slower is given up
CONNECTIONS = 4
REDIRECTS = 5  # on the same host
_OTHER_HOST = "the certificate is another host's", "Have one issued for this host"
_REFUSALS = {  # by OpenSSL's X509_V_ERR_*
    9: ("the certificate is not valid yet", "Check the clocks on both sides"),
    10: ("the certificate has expired", "Renew it at once"),
    62: _OTHER_HOST,
    64: _OTHER_HOST,
}
_UNTRUSTED = (
    "the certificate is not trusted",
    "Serve the whole chain; an authority of your own belongs into PUAVO_REPOSITORY_CA_FILE",
)
_HEADERS = {"Accept-Encoding": "identity", "User-Agent": "puavo-repository-audit"}


@dataclass(frozen=True)
class Answer:
    """What a server answered."""

    status: int  # HTTP's; that of a redirect where one was not followed
    headers: Mapping[str, str] = field(default_factory=dict)  # by names in any case
    body: bytes = b""  # as much as was asked for; nothing where the status is another one
    more: bool = False  # whether more would have followed
    leads: str = ""  # where a redirect leads that was not followed: to another host, or for ever

    def __str__(self) -> str:
        return f"status {self.status}" + (f", a redirect to {self.leads}" if self.leads else "")


class Https:
    """Connections to the server of a mirror, used from several threads.

    ``ca_file`` has the certificates to trust, instead of the system's.
    """

    def __init__(self, urlbase: str, ca_file: str) -> None:
        self.urlbase = urlbase
        try:
            context = ssl.create_default_context(cafile=ca_file or None)
        except (OSError, ssl.SSLError) as error:
            problem = f"{ca_file} cannot be used"
            raise SettingsError("ca_file", problem, expected="certificates in PEM form") from error
        limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
        self._client = httpx.Client(
            verify=context, timeout=TIMEOUT, limits=limits, headers=_HEADERS
        )

    def close(self) -> None:
        """Close every connection."""
        self._client.close()

    def certificate_ends(self) -> float:
        """Return when the server's certificate ends, trusted or not, in seconds since the epoch."""
        parts = urlsplit(self.urlbase)
        server = parts.hostname or "", parts.port or 443

        def ask() -> float:
            try:
                shown = ssl.get_server_certificate(server, timeout=TIMEOUT)
                found = x509.load_pem_x509_certificate(shown.encode())
            except (OSError, ValueError) as error:
                raise self._error(error) from error
            return found.not_valid_after_utc.timestamp()

        return with_retries(ask)

    def head(self, url: str) -> Answer:
        """Ask whether something is there, and how long it is."""
        return with_retries(lambda: self.fetch(url, 0, method="HEAD"))

    def get(self, url: str, limit: int, offset: int | None = None) -> Answer:
        """Fetch at most ``limit`` bytes: of a document, or from an offset of a file as a range."""
        return with_retries(lambda: self.fetch(url, limit, offset=offset))

    def fetch(
        self,
        url: str,
        limit: int,
        sink: Callable[[bytes], object] | None = None,
        *,
        offset: int | None = None,
        method: str = "GET",
    ) -> Answer:
        """Do the same once and without retries, into a sink if there is one."""
        status = 200 if offset is None else 206
        headers = {} if offset is None else {"Range": f"bytes={offset}-{offset + limit - 1}"}
        try:
            for _ in range(REDIRECTS):
                with self._client.stream(method, url, headers=headers) as response:
                    if response.next_request is None:
                        if response.status_code == status and method == "GET":
                            return _read(response, limit, sink)
                        return Answer(response.status_code, response.headers)
                    url = str(response.next_request.url)
                    if not self._is_here(url):
                        break
            return Answer(response.status_code, leads=url)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._error(error) from error

    def _is_here(self, url: str) -> bool:
        """Say whether a redirect stays on the host; from http to https is no other place."""
        base, to = urlsplit(self.urlbase), urlsplit(url)
        upgraded = (base.scheme, to.scheme) == ("http", "https") and to.hostname == base.hostname
        return upgraded or (to.scheme, to.netloc) == (base.scheme, base.netloc)

    def _error(self, error: Exception) -> CertificateError | ConnectionLostError:
        """Put an error on its branch: the refusal of a certificate lies at its bottom."""
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, ssl.SSLCertVerificationError):
                problem, remedy = _REFUSALS.get(cause.verify_code, _UNTRUSTED)
                found = cause.verify_message
                return CertificateError(self.urlbase, problem, found=found, remedy=remedy)
            cause = cause.__cause__ or cause.__context__
        late = isinstance(error, TimeoutError | httpx.TimeoutException)
        return ConnectionLostError(
            self.urlbase,
            "did not answer in time" if late else "the connection could not be made, or broke",
            found=str(error),
            remedy="See whether the web server is well and can be reached from here",
        )


def _read(response: httpx.Response, limit: int, sink: Callable[[bytes], object] | None) -> Answer:
    body, count = bytearray(), 0
    end = time.monotonic() + TIMEOUT + limit / SLOWEST
    for block in response.iter_raw():
        taken = block[: limit - count]
        count += len(taken)
        (sink or body.extend)(taken)
        if len(taken) < len(block):
            return Answer(response.status_code, response.headers, bytes(body), more=True)
        if time.monotonic() > end:
            raise httpx.ReadTimeout("too slow")
    return Answer(response.status_code, response.headers, bytes(body))
