"""Addresses of servers: which are allowed."""

import ipaddress
import re
from urllib.parse import urlsplit


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
