"""The generation config of a model ends a chat reply, and keeps all else that the base has in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fabrictune.model import models


def test_a_generation_config_that_transformers_would_not_save_is_kept_and_ends_a_reply(tiny_model, tmp_path) -> None:
    known = {"temperature": 0.9, "top_p": 0.6, "eos_token_id": 7, "of_their_own": [1]}
    (tmp_path / models.GENERATION).write_text(json.dumps(known))
    tokenizer = models.load_tokenizer(tiny_model)
    models.save_generation(tmp_path, tokenizer, tmp_path)
    end, text = (tokenizer.convert_tokens_to_ids(token) for token in ("<|im_end|>", "<|endoftext|>"))
    written = json.loads((tmp_path / models.GENERATION).read_text())
    assert written == known | {"eos_token_id": [end, text, 7], "pad_token_id": text}


def test_a_base_without_a_generation_config_gets_the_ends_alone(tiny_model, tmp_path) -> None:
    models.save_generation(tmp_path, models.load_tokenizer(tiny_model), tmp_path / "none")
    assert json.loads((tmp_path / models.GENERATION).read_text()) == {"eos_token_id": [2, 0], "pad_token_id": 0}


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_a_generation_config_that_is_torn_is_named(tiny_model, tmp_path: Path, text: str) -> None:
    (tmp_path / models.GENERATION).write_text(text)
    with pytest.raises(ValueError, match=f"{tmp_path / models.GENERATION} is no JSON object"):
        models.generation(models.load_tokenizer(tiny_model), tmp_path)
