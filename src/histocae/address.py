"""Addresses of servers: which are allowed, and how messages show them without credentials."""

import ipaddress
import os
import re
from urllib.parse import unquote, urlsplit

HIDDEN = "***"
_SENSITIVE = (
    "password|passwd|pwd|token|secret|credential|signature|access_?key|api_?key|account_?key|connection_string"
)
# the value of a variable or of a parameter in an address: password=..., X-Amz-Signature=..., "token": "..."; that of
# an Azure address: sig=...; of a header: Authorization: Bearer ...; of YAML: password: ...
_ASSIGNED = re.compile(
    rf"""([\w.-]*(?:{_SENSITIVE})[\w.-]*(?:=["']?|["']\s*:\s*["'])
    |(?<![\w.-])sig=
    |authorization["']?:\s*["']?(?:(?:basic|bearer)\s+)?
    |(?<![\w.-])bearer\s+(?=[\w.+/-]{{12}})
    |(?<![\w.-])(?:password|passwd|pwd):\s+)([^\s&"',;]+)""",
    re.IGNORECASE | re.VERBOSE,
)
# variables whose value is secret: PGPASSWORD, MYSQL_PWD, DB_PASSWORD_2; but not CREDENTIAL_HELPER, PWD or TOKEN_FILE
_SECRET_NAME = re.compile(
    r"PASSWORD|PASSWD|(^|_)(TOKEN|SECRETS?)(_|$)|_PWD$|(^|_)(CREDENTIALS?|SIGNATURE)$"
    r"|(ACCESS|API|ACCOUNT|PRIVATE|SECRET)_?KEY$|CONNECTION_STRING$"
)
_NO_SECRETS = {"true", "false", "none", "null", "yes", "off"}
_URL = re.compile(r"""[A-Za-z][A-Za-z0-9+.-]*://[^\s'"<>]+""")
_SHORTEST = 4  # characters of a secret that is replaced wherever it appears


def url_problems(url: str) -> list[str]:
    """List what is wrong with the address of a server of slides: it is https, without credentials."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port  # a port that is no number shows here
    except ValueError as error:
        return [f"no address ({error})"]
    if parts.scheme not in ("http", "https") or not host or not _is_host(host):
        return ["expected an address that begins with https://"]
    if parts.username is not None or parts.password is not None:
        return ["an address without a user and password; a token goes into data.gdc.token_file"]
    if parts.query or parts.fragment:
        return ["expected an address without ? and #"]
    if parts.scheme == "http" and not is_loopback(host):
        return ["plain http is for this machine itself; expected https://"]
    return []


def _is_host(host: str) -> bool:
    """Whether a host is an IPv6 address or a name of labels (RFC 1035)."""
    return ":" in host or all(re.fullmatch(r"[A-Za-z0-9_-]{1,63}", label) for label in host.rstrip(".").split("."))


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is this machine itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def origin(url: str) -> str:
    """Return scheme, host and port of an address; all else in it may be secret.

    A password that contains / ? # or @ as they are can't be told from the rest. Then the host is hidden too.

    >>> origin("https://user:password@server.example:5000/mlflow?token=secret")
    'https://server.example:5000'
    """
    scheme, separator, rest = url.partition("://")
    if scheme.startswith("sqlite"):
        return url.partition("?")[0]  # a path
    if not separator:
        return HIDDEN if "@" in url or "?" in url else url
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    host = authority.rpartition("@")[2]
    is_clear = "@" not in rest[len(authority) :] and re.fullmatch(r"([\w.-]*|\[[0-9A-Fa-f:.%]+\])(:\d*)?", host)
    return f"{scheme}://{host if is_clear else HIDDEN}"


def without_credentials(text: str) -> str:
    """Hide credentials in a message: user and password of addresses, and values of secret variables.

    Args:
        text: may have several lines.

    Returns:
        The text with *** in place of what is secret.

    """
    text = _URL.sub(lambda url: origin(url[0]) if "@" in url[0] and "://" in url[0] else url[0], text)
    for secret in _secrets():
        # a short secret may be part of other words
        text = re.sub(rf"(?<![^\W_]){re.escape(secret)}(?![^\W_])", HIDDEN, text)
    return _ASSIGNED.sub(rf"\1{HIDDEN}", text)


def _secrets() -> list[str]:
    """List the secrets that this process got by its environment, the longest first."""
    secrets = set()
    for name, value in os.environ.items():
        if _is_secret(name) and value.lower() not in _NO_SECRETS:
            secrets.add(value)
        elif "://" in value:
            secrets |= _in_address(value)
    return sorted((secret for secret in secrets if len(secret) >= _SHORTEST), key=len, reverse=True)


def _is_secret(name: str) -> bool:
    """Return whether the name of a variable says that its value is secret; PWD is the working folder."""
    upper = name.upper()
    return _SECRET_NAME.search(upper) is not None and not upper.endswith(("_FILE", "_PATH", "_DIR"))


def _in_address(url: str) -> set[str]:
    """List the passwords and the values of secret parameters in an address."""
    rest = url.partition("://")[2]
    user, at, _ = rest.rpartition("@")
    found = {user.partition(":")[2] or user} if at else set()
    found |= {match[2] for match in _ASSIGNED.finditer(rest.partition("?")[2])}
    return found | {unquote(secret) for secret in found}
