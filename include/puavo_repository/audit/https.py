"""The mirror as clients reach it: an https client in which every wait ends, and one update by it.

A server may be broken or mean harm: nothing of more than an agreed length is read, no redirect
leads to another host, and nothing is asked for twice as long as its size allows.
"""

import hashlib
import io
import ssl
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import httpx
from cryptography import x509

from puavo_repository.audit.report import Finding, error, warning
from puavo_repository.audit.steps import is_local
from puavo_repository.delta.librsync import patch
from puavo_repository.errors import (
    ConnectionLostError,
    DeltaError,
    PermanentError,
    StorageError,
    StorageRefusedError,
)
from puavo_repository.formats.names import ImageName, rdiff_name
from puavo_repository.mirror.description import Description
from puavo_repository.mirror.digests import digest_file
from puavo_repository.mirror.store import FOLDER
from puavo_repository.progress import format_bytes, no_progress
from puavo_repository.retry import with_retries
from puavo_repository.settings import trusting

TIMEOUT = 30.0  # seconds for each wait
SLOWEST = 20_000  # bytes a second; what is slower is given up
CONNECTIONS = 4
REDIRECTS = 5  # on the same host
_REFUSED = (
    "Renew it, have it issued for this host, and serve the whole chain; an authority of your own "
    "belongs into PUAVO_REPOSITORY_CA_FILE"
)
Entry = dict[str, Any]  # of an image or rdiff in metadata
_Update = tuple[Entry, Entry, Entry]  # images that are there and wanted, rdiff
_LARGEST = 2  # sizes of its image; no rdiff that is worth a fetch is larger
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


class Https(httpx.Client):
    """Connections to the server of a mirror, used from several threads.

    ``ca_file`` has the certificates to trust, instead of the system's.
    """

    def __init__(self, urlbase: str, ca_file: str) -> None:
        self.urlbase = urlbase
        limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
        context = trusting(ca_file)
        super().__init__(verify=context, timeout=TIMEOUT, limits=limits, headers=_HEADERS)

    def certificate_ends(self) -> float:
        """Return when the server's certificate ends, trusted or not, in seconds since the epoch."""
        parts = urlsplit(self.urlbase)
        server = parts.hostname or "", parts.port or 443

        def ask() -> float:
            with self._errors(OSError, ValueError):
                shown = ssl.get_server_certificate(server, timeout=TIMEOUT).encode()
                return x509.load_pem_x509_certificate(shown).not_valid_after_utc.timestamp()

        return with_retries(ask)

    def ask(
        self, url: str, limit: int = 0, *, offset: int | None = None, into: IO[bytes] | None = None
    ) -> Answer:
        """Fetch at most ``limit`` bytes, from an offset as a range; without it only ask for a head.

        The bytes are in the answer, or in a file from its beginning.
        """
        method, status = "GET" if limit else "HEAD", 200 if offset is None else 206
        headers = {} if offset is None else {"Range": f"bytes={offset}-{offset + limit - 1}"}

        def ask() -> Answer:
            to = url
            with self._errors(httpx.HTTPError, httpx.InvalidURL):
                for _ in range(REDIRECTS):
                    with self.stream(method, to, headers=headers) as response:
                        if response.next_request is None:
                            is_read = response.status_code == status and limit
                            return _read(response, limit if is_read else 0, into)
                        to = str(response.next_request.url)
                        if not self._is_here(to):
                            break
            return Answer(response.status_code, leads=to)

        return with_retries(ask)

    def _is_here(self, url: str) -> bool:
        """Say whether a redirect stays on the host; from http to https is no other place."""
        base, to = httpx.URL(self.urlbase), httpx.URL(url)
        upgraded = (base.scheme, to.scheme) == ("http", "https") and to.host == base.host
        return upgraded or (to.scheme, to.host, to.port) == (base.scheme, base.host, base.port)

    @contextmanager
    def _errors(self, *kinds: type[Exception]) -> Iterator[None]:
        """Put errors on their branch: the refusal of a certificate lies at the bottom of one."""
        try:
            yield
        except kinds as why:
            cause: BaseException | None = why
            while cause is not None:
                if isinstance(cause, ssl.SSLCertVerificationError):
                    problem, words = "its certificate is refused", cause.verify_message
                    raise PermanentError(
                        self.urlbase, problem, found=words, remedy=_REFUSED
                    ) from why
                cause = cause.__cause__ or cause.__context__
            late = isinstance(why, TimeoutError | httpx.TimeoutException)
            problem = "the connection could not be made, or broke"
            problem = "did not answer in time" if late else problem
            remedy = "See whether the web server is well and can be reached from here"
            said = {"found": str(why), "remedy": remedy}
            raise ConnectionLostError(self.urlbase, problem, **said) from why


def _read(response: httpx.Response, limit: int, into: IO[bytes] | None) -> Answer:
    """Read at most so many bytes of an answer; of none its head alone is there."""
    file, count = io.BytesIO() if into is None else into, 0
    file.seek(0)
    file.truncate()
    end = time.monotonic() + TIMEOUT + limit / SLOWEST
    for block in response.iter_raw() if limit else ():
        file.write(block[: limit - count])
        count += len(block)
        if count > limit:
            break
        if time.monotonic() > end:
            raise httpx.ReadTimeout("too slow")
    body = file.getvalue() if isinstance(file, io.BytesIO) else b""
    return Answer(response.status_code, response.headers, body, more=count > limit)


def canary(
    https: Https, served: Description, local: Description, turn: int, again: Collection[str] = ()
) -> tuple[list[str], list[Finding]]:
    """Make one update of the series whose turn it is: of each of them, as audits are counted.

    It is made as a laptop does: metadata, the rdiff by its name, applied, and compared. Those with
    the rdiffs of ``again``, that something was wrong with, are made as well.

    Returns:
        How each went, as a line for people, and what is wrong if something is.
    """
    possible = [
        one for one in _updates(served) if is_local(served.files[one[0]["filename"]], local)
    ]
    if not possible:
        problem = "no series has an rdiff to its newest image from one that is in the local mirror"
        return [f"canary: no update was made: {problem}"], []
    this = possible[turn % len(possible)]
    known = [one for one in possible if f"rdiffs/{one[2]['filename']}" in again and one is not this]
    done = [_update(https, local, one) for one in (this, *known)]
    return [line for line, _ in done], [found for _, found in done if found]


def _update(https: Https, local: Description, update: _Update) -> tuple[str, Finding | None]:
    """Make one update; return how it went, and what is wrong if something is."""
    before, after, diff = update
    old, new, path = before["filename"], after["filename"], f"rdiffs/{diff['filename']}"
    basis = local.root / old
    try:
        _make(https, basis, path, diff, after)
    except (OSError, StorageError, StorageRefusedError) as why:
        if not basis.is_file():
            return f"canary: {old} was taken away by a night, so no update could be made", None
        failed = "the update of a client could not be tried"
        return f"canary: {failed}", warning(path, failed, found=str(why))
    except (DeltaError, ConnectionLostError) as why:
        with suppress(OSError):
            if digest_file(basis, no_progress).sha256 == local.files[old].sha256:
                problem = f"the update from {old} to {new} fails: {why.problem}"
                remedy = (
                    "Audit the remote that is served here; see what lies between it and the clients"
                )
                finding = error(path, problem, why.expected, why.found, remedy)
                return f"canary: the update from {old} to {new} FAILED", finding
        return f"canary: {old} is wrong in the local mirror, so no update can start from it", None
    return (
        f"canary: {old} became {new} by an rdiff of {format_bytes(diff['size'])}, as on a laptop",
        None,
    )


def _updates(served: Description) -> Iterator[_Update]:
    """Yield what laptops do after the last night."""
    for document in served.parsed.values():
        for content in document.values():
            last = content["images"][-2:]
            if len(last) == 2 and all(ImageName.parse(image["filename"]) for image in last):
                old, new = last
                name = rdiff_name(old["filename"], new["filename"])
                diffs = (diff for diff in new.get("diffs", []) if diff["filename"] == name)
                yield from ((old, new, diff) for diff in diffs)


def _make(https: Https, basis: Path, path: str, diff: Entry, image: Entry) -> None:
    """Make an image from another by an rdiff; an error says what is wrong with it."""

    def same(problem: str, expected: object, found: object) -> None:
        if expected != found:
            raise DeltaError(path, problem, expected=str(expected), found=str(found))

    size, most = diff["size"], max(_LARGEST * basis.stat().st_size, 1 << 20)
    if size > most:
        problem, limit = "its rdiff is larger than any that is of use", f"at most {most} bytes"
        raise DeltaError(path, problem, expected=limit, found=str(size))
    # A file without a name: nothing is left behind, whatever happens.
    with tempfile.TemporaryFile(dir=basis.parent / FOLDER) as file:
        answer = https.ask(f"{https.urlbase}/{path}", size, into=file)
        same("its rdiff is not served", "status 200", str(answer))
        found = f"more than {size}" if answer.more else file.tell()
        same("its rdiff has the wrong size", size, found)
        file.seek(0)
        digest = hashlib.file_digest(file, "sha512").hexdigest()
        same("its rdiff is damaged: the sha512 differs", diff.get("sha512"), digest)
        made, count = hashlib.sha512(), 0

        def take(block: memoryview) -> None:
            nonlocal count
            count += len(block)
            if count > image["size"]:
                raise DeltaError(path, "it gives more than the image has")
            made.update(block)

        patch(basis, Path(f"/proc/self/fd/{file.fileno()}"), take)
    problem = "what its rdiff gives is not the image: the sha512 differs"
    same(problem, image.get("sha512"), made.hexdigest())
