"""Where a server of ours listens, and who may ask it: this machine alone, or whoever has the key."""

from __future__ import annotations

import ipaddress
import os
import socket
from contextlib import suppress
from urllib.parse import SplitResult, urlsplit

ANY = ("0.0.0.0", "::", "")  # every interface of the machine


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens on the host; False for a name that nobody knows."""
    found = reached(host) if host else set()
    return bool(found) and all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in found)


def reached(host: str) -> set[str]:
    """The addresses that the host's name stands for; none where nobody knows it."""
    with suppress(OSError, UnicodeError):
        return {str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    return set()


def parts(url: str, what: str) -> SplitResult:
    """The address of a server, in its parts. Raises ValueError if it is none.

    The error says `what` it is the address of, and shows it unless it may hold a password.
    """
    with suppress(ValueError):
        found = urlsplit(url)
        if found.scheme in ("http", "https") and found.hostname and found.port != 0:  # a port may be no number at all
            return found
    told = what if "@" in url else f"{what}={url}"
    raise ValueError(f"{told} is no address; it begins with http:// or https:// and a host, and its port is a number")


def shown(url: str) -> str:
    """The address as it may be printed: scheme, host, port and path. Raises ValueError if it is none."""
    found = urlsplit(url)
    return f"{found.scheme}://{found.netloc.rpartition('@')[2]}{found.path}"


def is_own(header: str | None, host: str = "") -> bool:
    """Whether what a Host or Origin header says names this machine (127.0.0.0/8, ::1, localhost), or the host itself.

    Told by its text: a web site may let a name of its own lead here, and its pages then ask us from a user's browser.
    """
    try:
        named = urlsplit(header if header and "://" in header else f"//{header or ''}").hostname
    except ValueError:
        return False
    if not named or named in ("localhost", host.lower()):
        return bool(named)
    try:
        return ipaddress.ip_address(named).is_loopback
    except ValueError:
        return False


def url(host: str, port: int) -> str:
    """The address, ending in /v1, at which a program on this machine reaches a server that listens there."""
    reached = "127.0.0.1" if host in ANY else host
    return f"http://{f'[{reached}]' if ':' in reached else reached}:{port}/v1"


def upstream_key(variable: str | None, setting: str) -> str | None:
    """The key to another server: what the environment variable holds, None if none is named.

    The setting is where the variable's name comes from. Raises ValueError where the variable is not set or holds what
    no header can carry.
    """
    if not variable:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ValueError(f"{setting}={variable}: that variable, which is to hold the key, is not set; export it")
    check_sent_key(key, variable, setting)
    return key


def check_sent_key(key: str, variable: str, setting: str) -> None:
    """Raises ValueError naming the environment variable that the key is from if no header can carry it."""
    if not key.isascii() or not key.isprintable():
        raise ValueError(f"the key in {variable} ({setting}) holds characters that no header can carry")


def key_for(host: str, variable: str, setting: str = "serve.api_key_env") -> str | None:
    """The key that clients must give: what the environment variable holds, None where it holds nothing.

    The setting is where the variable's name comes from; it may be empty. Raises ValueError for a key that no header
    can carry, and where there is none although others than this machine could ask.
    """
    key = os.environ.get(variable, "") if variable else ""
    if not key.isascii() or not all(character.isprintable() and character != " " for character in key):
        raise ValueError(
            f"the key in {variable} ({setting}) holds a blank, a line's end or another character that no header can "
            f"carry; choose one of letters and digits, as {variable}=$(openssl rand -hex 16)"
        )
    if not key and not is_loopback(host):
        named = variable or "MY_KEY"
        way = f"set {named} to one, as export {named}=$(openssl rand -hex 16)"
        way += "" if variable else f", and {setting}={named}"
        raise ValueError(
            f"serve.host={host} lets other machines ask, and there is no key for them to give: {way} "
            f"({setting} names the variable); or leave it to this machine with serve.host=127.0.0.1"
        )
    return key or None


def check_port(host: str, port: int) -> None:
    """Raises OSError if nothing can listen there."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except socket.gaierror as error:
        raise OSError(f"cannot listen on serve.host={host} ({error.strerror}); no such address is known") from error
    except OSError as error:
        raise OSError(f"cannot listen on {host}:{port} ({error.strerror}); choose another serve.port=") from error
