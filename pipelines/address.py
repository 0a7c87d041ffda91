"""Addresses of files on servers: quoted for requests, and without their secrets for messages."""

import base64
import re
from urllib.parse import quote, unquote, urlsplit, urlunsplit

_SCHEME = r"[A-Za-z][\w+.-]{1,20}:/"  # https:// or, after pathlib, https:/
_PARTS = re.compile(rf"\s*({_SCHEME}+)([^/?#]*)([^?#]*)")
_EMBEDDED = re.compile(rf"\b{_SCHEME}((?!\b{_SCHEME}/)\S)+")
_HOST = re.compile(r"(\[[^\s\]]*\]|[^\s:@\[\]]*)(:\d*)?")
_SHARED = re.compile(r"(?<=/s/)[\w-]{10,}")  # links of Nextcloud and Dropbox: whoever knows it can read the file
_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


def is_url(text: str) -> bool:
    """True for an http or https address."""
    return re.match(r"https?:/", text, re.IGNORECASE) is not None


def without_secrets(address: str) -> str:
    """Returns an address without user name, password, query and the token of a shared link; other text unchanged."""
    if not (match := _PARTS.match(address)):
        return address
    scheme, login_and_host, path = match.groups()
    host = login_and_host.rpartition("@")[2]
    is_login = ":" in host and "@" not in login_and_host and "@" in address[match.end(2) :]
    if is_login or not _HOST.fullmatch(host):  # half of a password that holds / or ? or #
        return f"{scheme}..."
    return f"{scheme}{host}{_SHARED.sub('...', path)}"


def hide_secrets(text: str) -> str:
    """Returns a text in which all addresses are without their secrets."""
    return _EMBEDDED.sub(lambda match: without_secrets(match[0]), text)


def quote_path(path: str) -> str:
    """Returns a path or a query with everything quoted that an address cannot hold, and nothing quoted twice."""
    return quote(_STRAY_PERCENT.sub("%25", path), safe="/%:@!$&'()*+,;=~?[]", errors="surrogateescape")


def parse_http(address: str) -> tuple[str, dict[str, str]]:
    """Returns the URL to request, quoted, and the headers that its user name and password become (basic auth).

    Raises ValueError for an address without a valid host.
    """
    try:
        parts = urlsplit(address)
        login, _, host = parts.netloc.rpartition("@")
        host = host.encode("idna").decode("ascii")
        is_valid = bool(parts.hostname and _HOST.fullmatch(host)) and parts.port != 0
    except ValueError:
        is_valid = False
    if not is_valid:
        raise ValueError(f"{without_secrets(address)} is not an address: it has no valid host and port")
    url = urlunsplit((parts.scheme, host, quote_path(parts.path), quote_path(parts.query), ""))
    if not login:
        return url, {}
    name, _, password = login.partition(":")
    token = base64.b64encode(f"{unquote(name)}:{unquote(password)}".encode(errors="surrogateescape")).decode()
    return url, {"Authorization": f"Basic {token}"}
