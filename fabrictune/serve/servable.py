"""What a model's folder and a LoRA adapter's must be for vLLM to serve them: found out before it starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fabrictune.log import logger
from fabrictune.merge import shards

# What vLLM 0.32 takes of LoRA: the ranks that it can be started for (vllm.config.lora), and in an adapter's settings
# (vllm.lora.peft_helper) what it needs, what must say nothing, and the ways to begin that leave the base as it is.
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
NEEDED = ("lora_alpha", "target_modules")
REFUSED = (
    *("use_dora", "lora_bias", "modules_to_save", "layer_replication"),
    *("alora_invocation_tokens", "use_bdlora", "use_qalora"),
)
PLAIN_INITS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")


def require_safetensors(model: Path, setting: str) -> None:
    """Raises FileNotFoundError or ValueError, naming the setting and the way out, for no folder that vLLM can load."""
    if not (model / "config.json").exists():
        raise FileNotFoundError(f"{setting}: no model folder (config.json is missing)")
    try:
        shards.files(model)
    except (FileNotFoundError, ValueError) as error:
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        raise kind(f"{setting}: {error}") from error


def check_code(model: Path, trusted: bool) -> None:
    """Raises ValueError naming the setting if the model needs code out of its folder that is not trusted."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    if trusted:
        logger.warning("serve.trust_remote_code=true: code out of %s may be run", model)
    elif "auto_map" in config:
        from transformers import CONFIG_MAPPING  # takes seconds that other models do not need

        if (kind := config.get("model_type")) not in CONFIG_MAPPING:
            raise ValueError(
                f"{model}: transformers knows no model type '{kind}', and code out of the model's folder is not run; "
                "if you have read it and trust it, give serve.trust_remote_code=true"
            )


def chat_template(model: Path) -> str:
    """The model's own chat template. Raises ValueError if it has none: without one no chat request is answered."""
    file, tokenizer = model / "chat_template.jinja", model / "tokenizer_config.json"
    if file.exists():
        return file.read_text(encoding="utf-8")
    found = json.loads(tokenizer.read_text(encoding="utf-8")).get("chat_template") if tokenizer.exists() else None
    if isinstance(found, list):  # several by name
        found = {one["name"]: one["template"] for one in found}.get("default")
    if not isinstance(found, str):
        raise ValueError(
            f"{model} has no chat template (neither {file.name} nor {tokenizer.name} has one), and without it no chat "
            f"can be answered; put the template of the model that it was made of into {file}"
        )
    return found


def check_length(model: Path, max_length: int) -> None:
    """Raises ValueError if the model was not made for texts so long, as far as its config.json says it plainly."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    config = config.get("text_config") or config
    known = config.get("max_position_embeddings")
    scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if type(known) is int and max_length > known and kind == "default":  # others lengthen what the model knows
        raise ValueError(f"serve.max_length={max_length}, but the model {model} has {known} positions; give no more")


def adapter_rank(name: str, folder: Path, model: Path) -> int:
    """The adapter's largest rank. Raises FileNotFoundError or ValueError if it cannot be served on the model."""
    path, weights = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    for needed in (path, weights):
        if not needed.exists():
            raise FileNotFoundError(f"adapter '{name}': {folder} is no LoRA adapter ({needed.name} is missing)")
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        ranks = [settings["r"], *(settings.get("rank_pattern") or {}).values()]
        rank = max(ranks)
        if not all(type(rank) is int and 0 < rank <= LORA_RANKS[-1] for rank in ranks):
            raise ValueError(f"ranks of {ranks}, but vLLM serves 1 to {LORA_RANKS[-1]}")
        _check_kind(settings)
        _check_fit({name: tensor.shape for name, tensor in shards.head(weights).items()}, model)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        words = f"{type(error).__name__} {error}" if isinstance(error, KeyError) else error
        raise ValueError(
            f"adapter '{name}': {folder} cannot be served on {model} ({words}); merge it and serve the merged model"
        ) from error
    return int(rank)


def _check_kind(settings: dict[str, Any]) -> None:
    """Raises ValueError naming what the adapter has that vLLM 0.32 does not serve, or what it lacks."""
    if settings.get("peft_type", "LORA") != "LORA":
        raise ValueError(f"its settings say peft_type={settings['peft_type']}")
    if missing := [key for key in NEEDED if key not in settings]:
        raise ValueError(f"its settings have no {missing[0]}")
    for key in REFUSED:
        if settings.get(key):
            raise ValueError(f"its settings say {key}={settings[key]}")
    if (settings.get("bias") or "none") != "none":
        raise ValueError(f"its settings say bias={settings['bias']}")
    init = settings.get("init_lora_weights")
    if isinstance(init, str) and init.lower() not in PLAIN_INITS:  # others have changed the base as well
        raise ValueError(f"its settings say init_lora_weights={init}")


def _check_fit(adapter: dict[str, tuple[int, ...]], model: Path) -> None:
    """Raises ValueError naming a layer of the adapter that the model does not have, or has in another shape."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    if "quantization_config" in config:
        return  # weights of other shapes, which vLLM may know how to read
    layers = {name: tensor.shape for name, tensor in shards.weights(model).items()}
    if config.get("tie_word_embeddings"):
        layers.setdefault("lm_head.weight", layers.get("model.embed_tokens.weight", ()))
    for key, shape in adapter.items():
        layer, _, side = key.removeprefix("base_model.model.").partition(".lora_")
        if side not in ("A.weight", "B.weight"):
            continue  # not of a linear layer
        known = layers.get(f"{layer}.weight")
        if not known:
            raise ValueError(f"the model has no {layer}.weight")
        if shape[1] != known[1] if side == "A.weight" else shape[0] != known[0]:
            raise ValueError(f"{key} is {shape}, the model's {layer}.weight {known}")
