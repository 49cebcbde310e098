"""A LoRA adapter as peft saves it, or out of a DeepSpeed ZeRO checkpoint: its settings and its tensors."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import warnings
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import peft
import torch
from peft import LoraConfig, PeftConfig

from fabrictune.log import logger
from fabrictune.merge import shards
from fabrictune.merge.shards import Tensor

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ZERO_STATES = "*model_states.pt"
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
# In a model that trains, peft has the adapter's own name in the middle of a parameter's.
NAMED = re.compile(r"\.(lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)\.[^.]+")
SAVED = re.compile(r"\.modules_to_save\.[^.]+")
# How matrices may have begun; the other ways (pissa, olora, ...) take something out of the base at the start, so that
# they add to another base than the one that was published.
BEGINNINGS = (True, False, "gaussian", "eva", "orthogonal")
NEVER = ("layer_replication", "target_parameters", "trainable_token_indices", "megatron_config", "use_qalora")


@dataclass(frozen=True)
class Adapter:
    """An adapter's tensors by name, read when they are asked for: `rows(name, start, stop)` are float32."""

    path: Path
    config: LoraConfig
    shapes: Mapping[str, tuple[int, ...]]
    rows: Callable[[str, int, int], torch.Tensor]

    def whole(self, name: str) -> torch.Tensor:
        return self.rows(name, 0, self.shapes[name][0])


def files(folder: Path) -> list[Path]:
    """The files that say what the adapter in the folder is: peft's two, or those of a ZeRO checkpoint.

    peft's weights are taken where both are there. Raises FileNotFoundError naming what is missing, ValueError if the
    weights are a pickle and no ZeRO checkpoint.
    """
    config = folder / CONFIG
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder; give merge.adapter=FOLDER of a LoRA adapter")
    states = _zero_files(folder)
    if not config.exists():
        kind = "a DeepSpeed checkpoint, but not its adapter's settings" if states else "no LoRA adapter"
        raise FileNotFoundError(f"{folder} is {kind}: {CONFIG} is missing; copy it there from where the run began")
    if (folder / WEIGHTS).exists():
        return [config, folder / WEIGHTS]
    if states:
        return [config, *states]
    if (folder / "adapter_model.bin").exists():
        raise ValueError(
            f"{folder} has its weights as a pickle (adapter_model.bin), which can run code when it is read; only "
            f"safetensors are read here: load it with peft and save it with save_pretrained"
        )
    raise FileNotFoundError(f"{folder} is no LoRA adapter: neither {WEIGHTS} nor a DeepSpeed checkpoint is in it")


def stamp(folder: Path) -> str:
    """A hash of all that makes up the adapter in the folder. Raises as `files` does."""
    known = hashlib.sha256()
    for path in files(folder):
        with path.open("rb") as file:
            known.update(hashlib.file_digest(file, "sha256").digest())
    return known.hexdigest()


def load(folder: Path) -> Adapter:
    """The adapter in the folder.

    A ZeRO checkpoint holds pickles, which run code when they are read, and which only DeepSpeed's own converter knows:
    it must be one's own. Raises as `files` does, and ValueError naming what of the adapter cannot be merged.
    """
    paths = files(folder)
    config = _config(folder)
    if paths[1].name == WEIGHTS:
        tensors = shards.head(paths[1])
        _require_readable(tensors)
        return Adapter(paths[1], config, {name: own.shape for name, own in tensors.items()}, _reader(tensors))
    states = _zero_states(folder, paths[1])
    shapes = {name: tuple(state.shape) for name, state in states.items()}
    return Adapter(paths[1].parent, config, shapes, lambda name, start, stop: states[name][start:stop].float())


def _config(folder: Path) -> LoraConfig:
    path = folder / CONFIG
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft's, of keys that it does not know; _warn_of_unknown says more
            config = PeftConfig.from_pretrained(str(folder))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} cannot be read as an adapter's settings ({type(error).__name__}: {error})") from error
    if not isinstance(config, LoraConfig):
        raise ValueError(f"{path}: peft_type is {getattr(config.peft_type, 'value', None)}; only LORA can be merged")
    variants = [known.name for known in dataclasses.fields(config) if known.metadata.get("is_lora_variant")]
    for name in (*NEVER, *variants):
        if name != "use_dora" and getattr(config, name):
            raise ValueError(f"{path}: {name} is {getattr(config, name)!r}, which cannot be merged here; use peft")
    if config.init_lora_weights not in BEGINNINGS:
        raise ValueError(
            f"{path}: init_lora_weights is {config.init_lora_weights!r}, which changes the base when training begins; "
            f"save the adapter with peft's path_initial_model_for_weight_conversion"
        )
    _warn_of_unknown(path, config)
    return config


def _warn_of_unknown(path: Path, config: LoraConfig) -> None:
    """Names the settings that are on and that the peft installed here has no word for: it leaves them out."""
    settings = json.loads(path.read_text(encoding="utf-8"))
    known = {field.name for field in dataclasses.fields(config)}
    unknown = [f"{key}={value!r}" for key, value in settings.items() if value and key not in known]
    if unknown:
        logger.warning(
            "%s, written by peft %s, has %s, which peft %s does not know: it is merged as if they were not there; if "
            "they change what the adapter computes, merge with that peft",
            *(path, settings.get("peft_version", "of another version"), ", ".join(unknown), peft.__version__),
        )


def _require_readable(tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES or not tensor.shape:
            raise ValueError(
                f"{tensor.file}: {name} is {tensor.dtype} {tensor.shape}; an adapter has matrices and vectors of "
                f"{', '.join(DTYPES)}"
            )


def _reader(tensors: Mapping[str, Tensor]) -> Callable[[str, int, int], torch.Tensor]:
    def rows(name: str, start: int, stop: int) -> torch.Tensor:
        tensor = tensors[name]
        found = torch.frombuffer(shards.rows(tensor, start, stop), dtype=DTYPES[tensor.dtype])
        return found.view(stop - start, *tensor.shape[1:]).float()

    return rows


def _zero_files(folder: Path) -> list[Path]:
    """The files of the newest states in a DeepSpeed checkpoint; none if it is none."""
    latest = folder / "latest"
    if not latest.exists():
        return []
    tag = folder / Path(latest.read_text(encoding="utf-8").strip()).name
    return sorted(tag.glob(ZERO_STATES)) + sorted(tag.glob("*optim_states.pt"))


def _zero_states(folder: Path, states: Path) -> dict[str, torch.Tensor]:
    """The adapter's float32 tensors in a ZeRO checkpoint, under the names that peft saves them by."""
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint  # takes 3 s to import

    logger.info("reading the DeepSpeed checkpoint %s, whose pickles can run code: it must be your own", states.parent)
    try:
        with redirect_stdout(StringIO()):
            found = get_fp32_state_dict_from_zero_checkpoint(
                str(folder), tag=states.parent.name, exclude_frozen_parameters=True
            )
    except (ValueError, KeyError, OSError, NotImplementedError) as error:
        raise ValueError(
            f"{states.parent} cannot be read as a ZeRO checkpoint ({type(error).__name__}: {error}); a checkpoint of "
            f"stage 0 has none: merge {WEIGHTS} of the same run"
        ) from error
    return {_saved_name(name): state for name, state in found.items()}


def _saved_name(name: str) -> str:
    """The name under which peft saves a parameter of a model that trains."""
    plain = SAVED.sub("", NAMED.sub(r".\1", name))
    return plain.removesuffix(".weight") if plain.endswith("lora_magnitude_vector.weight") else plain
