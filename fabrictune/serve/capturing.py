"""`serve.py serve=capture`: a proxy that records what clients and a server elsewhere say to each other."""

from __future__ import annotations

import ipaddress
import logging
import os
import shlex
import signal
import sys
from pathlib import Path

import psutil
import uvicorn

from fabrictune import addresses
from fabrictune.command_line import MAIN
from fabrictune.config import Config
from fabrictune.log import logger
from fabrictune.serve.capture import recording
from fabrictune.serve.capture.journal import Journal
from fabrictune.serve.capture.proxy import Count, Rules, Upstream, app, status
from fabrictune.serve.capture.recording import Heard

MIB = 1 << 20
GRACE_SECONDS = 30  # that requests in flight have to end once we are asked to
# That the thread which passes chunks on waits for one that redacts: it comes 3 ms late, with Python's own 0.005 9 ms.
SWITCH_SECONDS = 0.0005
KEEP_ALIVE_SECONDS = 75  # longer than clients keep a connection they do not use, so that none is closed as they ask


def capture(config: Config) -> None:
    """Records until Ctrl-C or SIGTERM; requests in flight may end first.

    Raises ValueError for an address or key that cannot be used, OSError where nothing can listen or the log cannot be
    written to.
    """
    serve = config.serve
    upstream = _upstream(serve.upstream, serve.upstream_key_env, serve.host, serve.port)
    client_key = addresses.key_for(serve.host, serve.api_key_env)
    addresses.check_port(serve.host, serve.port)
    folder = config.run_folder / "capture"
    _check_writable(folder)
    count = Count()
    rules = Rules(client_key, serve.host, serve.redact)
    if serve.redact:
        sys.setswitchinterval(SWITCH_SECONDS)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # uvicorn raises it again when it has ended
    with Journal[Heard](folder, "capture", serve.rotate_mib * MIB, recording.spelled) as journal:
        _say(config, upstream, client_key, folder)
        try:
            _server(app(upstream, journal, rules, count), serve.host, serve.port).run()
        except KeyboardInterrupt:
            pass
        finally:
            logger.info("captured %s", status(journal, count))
    if journal.written:
        print(f"Make training rows of it with:\n\n    {_convert_command(config, folder)}\n", flush=True)


def _server(application: object, host: str, port: int) -> uvicorn.Server:
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    settings = uvicorn.Config(
        application,  # type: ignore[arg-type]
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        date_header=False,  # the upstream's own is passed on
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    return uvicorn.Server(settings)


def _upstream(url: str | None, key_env: str | None, host: str, port: int) -> Upstream:
    """Where requests go. Raises ValueError, which does not show the address's password, if they cannot."""
    if not url:
        raise ValueError("serve=capture passes requests on: give serve.upstream=URL, an address that ends in /v1")
    parts = addresses.parts(url, "serve.upstream")
    name, to_port = str(parts.hostname), parts.port
    if parts.query or parts.fragment:
        raise ValueError(
            f"serve.upstream={addresses.shown(url)} must end with its path: what follows '?' or '#' is not sent"
        )
    if (to_port or (443 if parts.scheme == "https" else 80)) == port and addresses.reached(name) & _listening(host):
        raise ValueError(f"serve.upstream={addresses.shown(url)} is this proxy itself; choose another serve.port=")
    key = addresses.upstream_key(key_env, "serve.upstream_key_env")
    is_here = addresses.is_loopback(name)
    if parts.scheme == "http" and not is_here:
        logger.warning(
            "serve.upstream=%s is not encrypted: keys and requests can be read on their way", addresses.shown(url)
        )
    return Upstream(url, key, trust_env=not is_here)


def _listening(host: str) -> set[str]:
    """The addresses at which a server on the host is reached; a wildcard stands for all of this machine's."""
    found = addresses.reached(host)
    if not any(ipaddress.ip_address(address.partition("%")[0]).is_unspecified for address in found):
        return found
    return found | {entry.address for entries in psutil.net_if_addrs().values() for entry in entries}


def _check_writable(folder: Path) -> None:
    """Raises OSError naming the folder before any client is let in."""
    probe = folder / f".{os.getpid()}.probe"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise OSError(f"{folder} cannot be written to ({error.strerror}); choose another outputs= or name=") from error


def _say(config: Config, upstream: Upstream, client_key: str | None, folder: Path) -> None:
    """What a user has to know to point a client here."""
    serve = config.serve
    address = addresses.url(serve.host, serve.port)
    if upstream.key:
        upstream_key = f"the key in {serve.upstream_key_env}"
    elif client_key:
        upstream_key = "no key, since clients give the proxy's own (serve.upstream_key_env=VARIABLE names one)"
    else:
        upstream_key = "the client's own key"
    lines = [
        f"Recording at {address}",
        f"  passes on to   {upstream.shown}, with {upstream_key}",
        f"  clients give   {f'the key in {serve.api_key_env}' if client_key else 'no key of this proxy'}",
        f"  the log        {folder}{', personal data replaced' if serve.redact else ''}",
        f'  AgentFabric    in config/model_config.json: "api_base": "{address}" (docs/capture.md)',
        f"  others         base_url={address}",
        f"  then           {_convert_command(config, folder)}",
    ]
    print("\n".join(lines), flush=True)


def _convert_command(config: Config, folder: Path) -> str:
    words = ["python", "convert.py", "data/mix=files", "data.mix.file.source=agentfabric"]
    words += [f"data.mix.file.path={folder}", f"name={config.name}"]
    words += [f"variant={config.variant}"] if config.variant != MAIN else []
    return shlex.join(words)
