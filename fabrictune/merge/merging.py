"""merge.py: base plus adapter -> one model folder that vLLM and transformers load as it is."""

from __future__ import annotations

import errno
import glob
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fabrictune import processes, record
from fabrictune.config import Config, command
from fabrictune.log import Clock, bar, logger
from fabrictune.merge import adapters, changes, model_card, shards
from fabrictune.merge.changes import Change
from fabrictune.model import model_files, models

TEXTS = (*model_files.TEXTS, "LICENSE*", "NOTICE*")
SAME = ("source", "id", "file", "revision")  # that say which model it is; the dtype does not
TEMPLATES = "additional_chat_templates"  # a folder, as transformers saves templates beyond the first
MB = 10**6
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what only more room helps against


@dataclass(frozen=True)
class Prepared:
    """A merge of which all is known to fit: the base's folder, its weights' files and other files, what changes.

    `generation` is the merged model's generation_config.json.
    """

    base: Path
    files: list[Path]
    texts: list[Path]
    tensors: dict[str, shards.Tensor]
    adapter: adapters.Adapter
    changes: dict[str, Change]
    generation: dict[str, Any]


def merge(config: Config) -> None:
    """Writes merge/model: the base's own files, with the adapter in its weights and an end to a chat reply, and a card.

    Raises as `prepare`, `aside` and `write` do.
    """
    own = config.run_folder / "merge"
    adapter = _adapter(config)
    # Of an adapter that is not this run's own, run.json and the model's card say where it is from.
    settings = {"model": config.model.plain(), "adapter": adapters.stamp(adapter), "from": config.merge.adapter}
    record.require_free(own, settings, overwrite=config.overwrite, resume=config.resume)
    if config.resume and not config.overwrite and record.is_finished(own):
        logger.info("%s is finished already", own)
        return
    prepared = prepare(models.local_folder(**config.model.plain()), adapter)  # before a merge that was there goes
    if config.merge.adapter is not None:
        _warn_of_other_base(prepared, config.model.id)
    stage = record.open_stage(own, settings, overwrite=config.overwrite, resume=config.resume, continues=False)
    folder = stage.folder / "model"
    with aside(folder) as part:
        write(prepared, part)
        facts = model_card.read(config.run_folder, config.convert_folder, settings)
        model_card.write(part, facts)
    model_card.keep(stage.folder, facts)
    written = sorted(path for path in folder.rglob("*") if path.is_file())
    stage.finish(files=[str(path.relative_to(folder)) for path in written], bytes=_size(written), adapter=str(adapter))
    logger.info("wrote %s", folder)
    for line in record.closing(config.run_folder):
        logger.info(line)


def _adapter(config: Config) -> Path:
    """The folder of the adapter that is to be merged.

    Raises FileNotFoundError naming what makes or names one, ValueError if the run trained it on another base.
    """
    if config.merge.adapter is not None:
        return Path(config.merge.adapter).expanduser()
    train = command("train.py", config)
    trained = record.require_finished(config.run_folder / "train", train)
    best = record.require(trained / "best" / adapters.WEIGHTS, f"make it with: {train} overwrite=true").parent
    _require_same_base(record.settings_of(trained)["model"], config.model.plain(), best)
    return best


def _require_same_base(known: Mapping[str, Any], given: Mapping[str, Any], adapter: Path) -> None:
    """Raises ValueError if the model that was trained on is not the one that is given."""
    if any(_word(key, known) != _word(key, given) for key in SAME):
        before, now = (" ".join(f"{key}={one[key]}" for key in SAME if one.get(key)) for one in (known, given))
        raise ValueError(
            f"{adapter} was trained on the model {before}, and this is {now}; give model= and model.* as train.py was "
            f"given them, or, to have it on another base all the same, merge.adapter={adapter}"
        )


def _word(key: str, model: Mapping[str, Any]) -> Any:
    """What a section `model` says, a folder in full."""
    is_folder = key == "id" and model["source"] == "folder"
    return Path(model["id"]).expanduser().resolve() if is_folder else model.get(key)


def _warn_of_other_base(prepared: Prepared, id: str) -> None:
    named = prepared.adapter.config.base_model_name_or_path
    if named and named != id and Path(named).expanduser().resolve() != prepared.base.resolve():
        logger.warning("%s says that it was trained on %s; it is merged into %s", prepared.adapter.path, named, id)


@contextmanager
def aside(target: Path) -> Iterator[Path]:
    """A folder to fill, which is on the disk and takes the name of `target` when the block ends.

    On an error nothing is left; what a process that was killed has left goes first. Raises FileExistsError if `target`
    is there already.
    """
    if target.exists():
        raise FileExistsError(f"{target} is there already; delete it, or choose another folder")
    for stale in target.parent.glob(f".{glob.escape(target.name)}.*.part"):
        shutil.rmtree(stale, ignore_errors=True)
    folder = target.with_name(f".{target.name}.{os.getpid()}.part")
    folder.mkdir(parents=True)
    try:
        yield folder
        for path in (*folder.rglob("*"), folder):
            _force_to_disk(path)
        folder.replace(target)
        _force_to_disk(target.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def prepare(base: Path, adapter: Path) -> Prepared:
    """All that a merge has to know; reads the adapter, and of the base the files' heads and the tokenizer.

    Raises ValueError if the adapter does not fit the base, one of them cannot be merged or the base has no chat
    template, FileNotFoundError if a part of either is missing.
    """
    settings = _base_settings(base)
    files, tensors = shards.files(base), shards.weights(base)
    loaded = adapters.load(adapter)
    planned = changes.plan(loaded, base, tensors, _is_tied(settings, tensors))
    generation = models.generation(models.load_tokenizer(base), base)
    return Prepared(base, files, _texts(base, files), tensors, loaded, planned, generation)


def write(prepared: Prepared, folder: Path) -> None:
    """Fills the folder with the base's weights, changed by the adapter, and all else that belongs to a model.

    Keys, dtypes, shapes and files of the weights are the base's; what the adapter does not change stays bit for bit.
    W + scaling * B @ A is computed in float32 and rounded once, a few MB at a time. Raises OSError if the disk is too
    small, or naming a file that cannot be read or written.
    """
    clock, size = Clock(), _size(prepared.files)
    _require_space(folder, size + _size(prepared.texts))
    logger.info(
        "merging %s into %s: %d of %d tensors change",
        *(prepared.adapter.path, prepared.base, len(prepared.changes), len(prepared.tensors)),
    )

    def edit(tensor: shards.Tensor) -> shards.Edit | None:
        change = prepared.changes.get(tensor.name)
        return changes.edit(change, tensor, prepared.adapter) if change else None

    try:
        with bar("merging (MB)", round(size / MB)) as shown, _one_thread_each():
            done = 0

            def moved(count: int) -> None:
                nonlocal done
                done += count
                shown.update(done // MB - shown.n)

            shards.rewrite({file: folder / file.name for file in prepared.files}, edit, processes.cpus(), moved)
        _write_texts(prepared, folder)
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise OSError(f"{folder.parent} cannot be written ({error}); free some of the disk, merge again") from error
    logger.info("merged %.2f GB in %.1f s", size / 1e9, clock.seconds())


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """A piece of a tensor is one core's work: torch's own threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _base_settings(base: Path) -> dict[str, Any]:
    """The base's config.json. Raises ValueError if its weights are quantised, FileNotFoundError if there is none."""
    path = base / "config.json"
    if not path.exists():
        raise FileNotFoundError(f"{base} is no model folder (config.json is missing)")
    settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if known := settings.get("quantization_config"):
        raise ValueError(
            f"{base} is quantised ({known.get('quant_method', 'quantization_config')}), and what is merged into few "
            f"bits is lost; merge into the model that it was made of"
        )
    return settings


def _is_tied(settings: dict[str, Any], tensors: dict[str, shards.Tensor]) -> bool:
    """Whether the head is the embedding: so say the settings, or it has no tensor of its own."""
    told = settings.get("tie_word_embeddings", settings.get("text_config", {}).get("tie_word_embeddings"))
    return bool(told) or changes.HEAD not in tensors


def _texts(base: Path, files: list[Path]) -> list[Path]:
    """What belongs to the base beside its weights: settings, tokenizer, templates, licence; never code or a card."""
    found = {path for pattern in TEXTS for path in base.glob(pattern) if path.is_file()}
    found |= set((base / TEMPLATES).glob("*.jinja"))
    found -= {path for path in found if path.name.startswith(".") or path.name.endswith(".index.json")}
    found.discard(base / adapters.CONFIG)  # which would have transformers load the adapter's own base
    if files != [base / shards.SINGLE]:
        found.add(base / shards.INDEX)
    return sorted(found)


def _write_texts(prepared: Prepared, folder: Path) -> None:
    """The base's own bytes, but for the generation config, which ends a reply where the chat template does."""
    for path in prepared.texts:
        copy = folder / path.relative_to(prepared.base)
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, copy)
    record.write_json(folder / models.GENERATION, prepared.generation)


def _require_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"the merged model takes {needed / 1e9:,.2f} GB, but on the disk of {folder.parent} only {free / 1e9:,.2f} "
            "GB are free; make room, or move the run to another disk and give outputs=FOLDER"
        )


def _size(paths: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in paths)


def _force_to_disk(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    except OSError as error:
        # CIFS, 9p and some of FUSE's file systems have no fsync of a folder.
        if not path.is_dir() or error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(file)
