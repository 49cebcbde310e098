"""merge.py: base plus adapter -> one model folder that vLLM and transformers load as it is."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import safe_open

from fabrictune import models, record
from fabrictune.config import Config, command
from fabrictune.log import logger


def merge(config: Config) -> None:
    """Writes merge/model: safetensors, tokenizer with its chat template, generation config that ends a chat reply."""
    root = config.run_folder
    train = command("train.py", config)
    trained = record.require_finished(root / "train", train)
    adapter = record.require(trained / "best" / "adapter_model.safetensors", f"{train} overwrite=true")
    settings = {
        "model": config.model.plain(),
        "adapter": record.file_hash(adapter),
    }
    stage = record.open_stage(
        root / "merge", settings, overwrite=config.overwrite, resume=config.resume, continues=False
    )
    if stage.finished:
        logger.info("%s is finished already", stage.folder)
        return
    base = models.local_folder(**config.model.plain())
    folder = stage.folder / "model"
    merge_folders(base, adapter.parent, folder, config.model.dtype.value)
    size = sum(file.stat().st_size for file in folder.iterdir())
    stage.finish(files=sorted(file.name for file in folder.iterdir()), bytes=size)
    logger.info("wrote %s (%.0f MB); next: %s", folder, size / 1e6, command("serve.py", config))


def merge_folders(base: Path, adapter: Path, target: Path, dtype: str) -> None:
    """Writes the merged model to `target`, which appears whole or not at all.

    The product of the adapter's matrices is added in float32 and rounded once, to `dtype`. Raises ValueError if the
    adapter does not fit the base.
    """
    aside = target.with_name(f".{target.name}.{os.getpid()}.part")
    logger.info("merging %s into %s", adapter, base)
    try:
        model = _with_adapter(base, adapter)
        merged = model.merge_and_unload(progressbar=True).to(getattr(torch, dtype))
        merged.save_pretrained(aside)
        models.save_chat_settings(aside, models.load_tokenizer(base), base)
        aside.replace(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _with_adapter(base: Path, adapter: Path) -> PeftModel:
    """The base with the adapter's weights. peft passes over tensors that have no place in the base; we do not."""
    try:
        model = PeftModel.from_pretrained(models.load(base, "float32", "sdpa"), adapter)
    except RuntimeError as error:
        raise ValueError(f"the adapter {adapter} does not fit the base {base}: {error}") from error
    with safe_open(adapter / "adapter_model.safetensors", "pt") as file:
        astray = sorted(set(file.keys()) ^ set(get_peft_model_state_dict(model)))
    if astray:
        raise ValueError(
            f"the adapter {adapter} does not fit the base {base}: {len(astray)} tensors, {astray[0]} first"
        )
    return model
