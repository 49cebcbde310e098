"""A model of the run's own is served for an evaluation as it will be served for users."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import write_tiny_model
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from tiny_adapter import write_adapter

from fabrictune.config import Config, typed
from fabrictune.evaluate import candidates

ROOT = Path(__file__).resolve().parent.parent
STAND_IN = """
import http.server, json, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

print(json.dumps(sys.argv), flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""


def composed(*overrides: str) -> Config:
    with initialize_config_dir(config_dir=str(ROOT / "conf"), version_base="1.3"):
        return typed(compose("config", list(overrides)))


@pytest.fixture
def vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for vLLM, which writes its command line into its log."""
    package = tmp_path / "packages" / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True)
    (package / "api_server.py").write_text(STAND_IN)
    (tmp_path / "packages" / "vllm" / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"))


def test_an_adapters_reply_ends_as_it_has_learned_to_end(tmp_path: Path, vllm: None) -> None:
    base = write_tiny_model(tmp_path / "tiny")
    adapter = write_adapter(tmp_path / "adapter")
    folder = tmp_path / "evaluation"
    folder.mkdir()

    def command(model: candidates.Candidate) -> list[str]:
        with candidates.answering(composed(), "mine", model, folder) as (_, name):
            assert name == "mine"
            words: list[str] = json.loads((folder / "vllm-mine.log").read_text().splitlines()[0])
            return words

    words = command(candidates.Candidate(None, "", folder=base, adapter=adapter))
    assert words[words.index("--generation-config") + 1] == str(folder)
    ends = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    assert set(ends) == {0, 2}, "<|endoftext|>, the base's own, and <|im_end|>, the chat template's"
    assert "--generation-config" not in command(candidates.Candidate(None, "", folder=base)), "a model is as it says"


@pytest.mark.parametrize(
    ("label", "script"), [("tuned", "merge.py"), ("adapter", "train.py")], ids=["a merged model", "an adapter"]
)
def test_what_is_not_made_yet_is_named_with_all_that_was_typed_but_what_evaluate_alone_reads(
    tmp_path: Path, label: str, script: str
) -> None:
    words = [f"outputs={tmp_path}", "model=folder", "model.id=/models/one", "name=mine", "+experiment=demo"]
    own = ["eval=smoke", f"eval.models=[{label}]", "+eval.endpoints.other.url=http://me:hush@there/v1"]
    with initialize_config_dir(config_dir=str(ROOT / "conf"), version_base="1.3"):
        HydraConfig.instance().set_config(compose("config", [*words, *own], return_hydra_config=True))
    try:
        with pytest.raises(FileNotFoundError) as raised:
            candidates.find(composed(*words, *own, "variant=rank-8"), label)
    finally:
        HydraConfig.instance().cfg = None
    assert str(raised.value).endswith(f"make it with: python {script} {' '.join(words)} variant=rank-8")


@pytest.mark.parametrize(
    ("words", "setting"),
    [
        (["eval.url=http://127.0.0.1:9/v1", "eval.api_key_env=MY_KEY"], "eval.api_key_env"),
        (
            ["+eval.endpoints.other={url: http://127.0.0.1:9/v1, api_key_env: MY_KEY}"],
            "eval.endpoints.other.api_key_env",
        ),
    ],
)
def test_a_key_that_cannot_be_sent_is_told_by_its_variable(
    monkeypatch: pytest.MonkeyPatch, words: list[str], setting: str
) -> None:
    monkeypatch.setenv("MY_KEY", "secret\n")
    with pytest.raises(ValueError, match=rf"the key in MY_KEY \({setting}\) holds characters") as raised:
        candidates.find(composed(*words), "endpoint" if setting == "eval.api_key_env" else "other")
    assert "secret" not in str(raised.value)
