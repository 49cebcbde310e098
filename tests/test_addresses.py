"""Who may ask a server: this machine alone, or whoever has the key."""

from __future__ import annotations

import socket

import pytest

from fabrictune import addresses


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "::1", "localhost"])
def test_a_loopback_host_is_known_by_what_it_means(host: str) -> None:
    assert addresses.is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.0.0.5", "192.168.1.2", "nosuch.invalid", "x" * 300])
def test_every_other_host_may_be_reached_from_elsewhere(host: str) -> None:
    assert not addresses.is_loopback(host)


@pytest.mark.parametrize(
    "header",
    [
        "127.0.0.1",
        "127.9.8.7:8010",
        "localhost:8010",
        "LOCALHOST",
        "[::1]:8010",
        "http://localhost:3000",
        "http://[::1]",
    ],
)
def test_a_header_names_this_machine_by_its_text(header: str) -> None:
    assert addresses.is_own(header)


@pytest.mark.parametrize(
    "header",
    [
        *(None, "", "null", "evil.example", "http://evil.example", "localhost.evil.example", "127.0.0.1.evil.example"),
        *("https://127.0.0.1@evil.example:8010", "0.0.0.0", "10.0.0.5:8010", "[::1", "[::]", "file://", "127.1", "://"),
    ],
)
def test_every_other_header_may_be_a_web_site_s(header: str | None) -> None:
    assert not addresses.is_own(header)


def test_the_name_that_a_server_was_given_is_its_own() -> None:
    assert addresses.is_own("My-Box:8010", "my-box") and addresses.is_own("http://my-box", "MY-BOX")
    assert not addresses.is_own("other-box:8010", "my-box") and not addresses.is_own("", "")


def test_this_machine_alone_needs_no_key_and_gives_the_one_that_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    assert addresses.key_for("127.0.0.1", "MY_KEY") is None
    assert addresses.key_for("127.0.0.1", "") is None
    monkeypatch.setenv("MY_KEY", "")
    assert addresses.key_for("localhost", "MY_KEY") is None, "an empty variable is none"
    monkeypatch.setenv("MY_KEY", "s3cret")
    assert addresses.key_for("127.0.0.1", "MY_KEY") == addresses.key_for("0.0.0.0", "MY_KEY") == "s3cret"


@pytest.mark.parametrize("variable", ["MY_KEY", ""])
def test_another_host_without_a_key_is_refused_with_both_ways_out(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(ValueError, match=r"serve\.host=0\.0\.0\.0 .*MY_KEY.*eval\.key_env.*serve\.host=127\.0\.0\.1"):
        addresses.key_for("0.0.0.0", variable, "eval.key_env")


@pytest.mark.parametrize("key", ["two words", "line\n", "schlüssel", "tab\t"])
def test_a_key_that_no_header_can_carry_is_refused_without_being_shown(
    monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("MY_KEY", key)
    with pytest.raises(ValueError, match="MY_KEY") as raised:
        addresses.key_for("127.0.0.1", "MY_KEY")
    assert key not in str(raised.value)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000/v1"),
        ("0.0.0.0", "http://127.0.0.1:8000/v1"),
        ("::", "http://127.0.0.1:8000/v1"),
        ("::1", "http://[::1]:8000/v1"),
        ("gpu-box", "http://gpu-box:8000/v1"),
    ],
)
def test_a_server_is_reached_at_a_real_address(host: str, expected: str) -> None:
    assert addresses.url(host, 8000) == expected


def test_a_port_in_use_is_named_with_the_way_out() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"{port}.*serve.port="):
            addresses.check_port("127.0.0.1", port)
    addresses.check_port("127.0.0.1", port)
    with pytest.raises(OSError, match="serve.host=nosuch.invalid"):
        addresses.check_port("nosuch.invalid", port)


@pytest.mark.parametrize(
    "url", ["me:s3cret@host/v1", "ftp://me:s3cret@host/v1", "http://me:s3cret@host:x/v1", "http://me:s3cret@:80/v1"]
)
def test_what_is_no_address_is_told_without_a_password(url: str) -> None:
    with pytest.raises(ValueError, match="^serve.upstream is no address") as told:
        addresses.parts(url, "serve.upstream")
    assert "s3cret" not in str(told.value)


def test_an_address_is_told_in_its_parts() -> None:
    found = addresses.parts("https://me:s3cret@[::1]:8000/v1", "serve.upstream")
    assert (found.hostname, found.port, found.path) == ("::1", 8000, "/v1")
    with pytest.raises(ValueError, match="serve.upstream=gpu-box:8000/v1 is no address"):
        addresses.parts("gpu-box:8000/v1", "serve.upstream")
