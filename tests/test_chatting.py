"""`serve=chat` takes its servers, keys and tools from the config, and refuses what cannot work in a sentence."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

pytest.importorskip("gradio", reason="NO GRADIO: the chat page was not made; make install")

from endpoint import serving
from test_config import ROOT

from fabrictune import processes
from fabrictune.config import Config, typed
from fabrictune.serve import chatting
from fabrictune.serve.chat.streaming import Provider, Server

OPENAI = "https://api.openai.com/v1"


def configured(*overrides: str) -> Config:
    with initialize_config_dir(config_dir=str(ROOT / "conf"), version_base="1.3"):
        return typed(compose("config", ["serve=chat", *overrides]))


def test_models_come_from_the_upstream_and_from_named_endpoints_each_with_its_key(monkeypatch) -> None:
    monkeypatch.setenv("FAR_KEY", "sesame")
    monkeypatch.setenv("OPENAI_API_KEY", "for OpenAI")
    config = configured(
        "+serve.endpoints.far={url: 'https://far.example/v1', model_name: big, api_key_env: FAR_KEY}",
        "+serve.endpoints.near={url: 'http://10.0.0.7:8001/v1'}",
        "+serve.endpoints.like={url: 'https://api.openai.com.evil.example/v1'}",
        f"+serve.endpoints.openai={{url: '{OPENAI}'}}",
    )
    assert chatting.providers(config) == [
        Provider(Server("http://127.0.0.1:8000/v1", None, "serve.upstream_key_env")),
        Provider(Server("https://far.example/v1", "sesame", "serve.endpoints.far.api_key_env"), "far", "big"),
        Provider(Server("http://10.0.0.7:8001/v1", None, "serve.endpoints.near.api_key_env"), "near"),
        Provider(Server("https://api.openai.com.evil.example/v1", None, "serve.endpoints.like.api_key_env"), "like"),
        Provider(Server(OPENAI, "for OpenAI", "serve.endpoints.openai.api_key_env"), "openai"),
    ]


@pytest.mark.parametrize("value", [None, ""])
@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["serve.upstream_key_env=TYPO_KEY"], "serve.upstream_key_env=TYPO_KEY: .* not set"),
        (["+serve.endpoints.b={url: 'http://b/v1', api_key_env: TYPO_KEY}"], "serve.endpoints.b.api_key_env=TYPO_KEY"),
        ([f"+serve.endpoints.b={{url: '{OPENAI}'}}"], "serve.endpoints.b.api_key_env=OPENAI_API_KEY"),
    ],
)
def test_a_key_that_is_not_set_is_missed_by_its_variables_name(overrides, words, value, monkeypatch) -> None:
    for variable in ("TYPO_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(variable, raising=False) if value is None else monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=words):
        chatting.providers(configured(*overrides))


def told(*overrides: str) -> tuple[list[str], str]:
    """The models' labels, and all that is said of those that are missing."""
    models, troubles = asyncio.run(chatting.available(chatting.providers(configured(*overrides)), "serve it"))
    return list(models), "\n".join(troubles)


@pytest.mark.parametrize("key", [None, "wrong"])
def test_a_server_that_asks_for_a_key_is_told_by_the_setting_of_the_key(key, monkeypatch) -> None:
    monkeypatch.setenv("MY_KEY", key or "sesame")
    with serving(lambda body: "", key="sesame") as endpoint:
        wrong, right = (
            (f"serve.upstream={endpoint.bare_url}", "serve.upstream_key_env=MY_KEY"),
            f"serve.upstream={endpoint.bare_url}",
        )
        models, words = told(*([right] if key is None else wrong))
        assert not models and "serve.upstream_key_env= names" in words and "serve it" not in words
        monkeypatch.setenv("MY_KEY", "sesame")
        assert told(*wrong) == (["the-model"], "")


def test_only_where_no_server_can_be_reached_one_is_told_to_start_it() -> None:
    with serving(lambda body: "", names=()) as empty, serving(lambda body: "") as full:
        assert "serve it" not in told(f"serve.upstream={empty.bare_url}")[1]
        gone = f"serve.upstream=http://127.0.0.1:{processes.free_port()}/v1"
        assert "Start a model with `serve it`" in told(gone)[1]
        models, words = told(gone, f"+serve.endpoints.b.url={full.bare_url}")
        assert models == ["the-model (b)"] and "cannot be reached" in words and "serve it" not in words


def test_a_run_is_talked_to_in_the_format_that_its_data_was_converted_to(tmp_path: Path) -> None:
    folder = tmp_path / "mine" / "main" / "convert"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text('{"finished": "today", "settings": {"format": "openai"}}', encoding="utf-8")
    with pytest.raises(ValueError, match="data.format=openai, for other trainers"):
        chatting.chat(configured("name=mine", f"outputs={tmp_path}", "serve.upstream=null"))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["serve.upstream=null"], "give serve.upstream="),
        (["serve.upstream=localhost"], "serve.upstream: the server's url=localhost is no address"),
        (["+serve.endpoints.b={folder: there}"], "serve.endpoints.b: the page talks to served models"),
        (["serve.host=0.0.0.0"], "FABRICTUNE_CHAT_KEY"),
        (["serve.tools_file=missing.json"], "serve.tools_file=missing.json"),
        (["data.format=openai"], "data.format=agentfabric"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_served(overrides, words, monkeypatch) -> None:
    monkeypatch.delenv("FABRICTUNE_CHAT_KEY", raising=False)
    with pytest.raises((ValueError, OSError), match=words):
        chatting.chat(configured(f"serve.port={processes.free_port()}", *overrides))
