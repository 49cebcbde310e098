"""Datasets of ModelScope and of Hugging Face, fetched by the hubs' own clients or put by hand."""

from __future__ import annotations

import hashlib
import logging
import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fabrictune.log import logger
from fabrictune.sources import files

_ID = re.compile(r"(\w[\w.-]*/)?\w[\w.-]*")
_MARK = ".fetched-"


def fetch(hub: str, id: str, pattern: str | None, revision: str | None, local: Path) -> Path:
    """The folder that holds the dataset's files, of which `files.listed(folder, pattern)` tells the names.

    That is `local/id` where it holds such files: then nothing is asked of the hub. Else the hub's client fetches, into
    its own cache, those files alone that `files` reads and that match the pattern. It asks only for files that are
    missing and goes on where one broke off (after a kill only modelscope's does, huggingface_hub 2.4 starts that file
    anew); what it once fetched whole is there without a network too.
    Raises ValueError for an unknown hub, what is no dataset's id, or a dataset without such files, and ConnectionError
    saying which files to put where if the hub cannot be reached or does not give the dataset out.
    """
    if hub not in HUBS:
        raise ValueError(f"unknown hub '{hub}'; choose from {', '.join(HUBS)}")
    if not _ID.fullmatch(id):
        raise ValueError(f"'{id}' is no dataset's id; give owner/name as {hub} shows it")
    own = local / id
    if _holds(own, pattern):
        return own
    wanted = f"its files that match '{pattern}'" if pattern else f"its data files ({', '.join(files.KINDS)})"
    logger.info("asking %s for %s", hub, id)
    try:
        folder = HUBS[hub](id, pattern, revision)
    except ConnectionError as error:
        raise ConnectionError(
            f"{id}: put {wanted} into {own}/, or run this where {hub} can be reached and lets you in; "
            f"it said: {_short(str(error))}"
        ) from error
    if not _holds(folder, pattern):
        raise ValueError(f"{id} on {hub} has no data files that match '{pattern or '*'}'; put {wanted} into {own}/")
    return folder


def _holds(folder: Path, pattern: str | None) -> bool:
    try:
        return bool(files.listed(folder, pattern))
    except (FileNotFoundError, ValueError):
        return False


def _short(reason: str) -> str:
    """The reason in one line, without its middle if it is long: urllib3 says the cause last, the hubs say it first."""
    line = " ".join(reason.split()).rstrip(".")
    return line if len(line) <= 160 else f"{line[:75].rstrip()} ... {line[-80:].lstrip()}"


def _from_huggingface(id: str, pattern: str | None, revision: str | None) -> Path:
    """Raises ConnectionError for whatever keeps the files from coming. Offline the client knows what it has whole."""
    # Here, as for the other hub: the clients take up to half a second to import.
    from httpx2 import HTTPError  # what huggingface_hub's own errors derive from
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(
            id, repo_type="dataset", revision=revision, allow_patterns=pattern, ignore_patterns=_other_names()
        )
    except (OSError, HTTPError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk's
            raise
        raise ConnectionError(str(error)) from error
    return Path(folder)


def _from_modelscope(id: str, pattern: str | None, revision: str | None) -> Path:
    """Raises ConnectionError for whatever keeps the files from coming.

    The client knows offline where its files are, but not whether they are all: a mark beside them says that.
    """
    from modelscope_hub import FileDownloadError, HubError
    from modelscope_hub.compat import dataset_snapshot_download  # what the modelscope package itself calls
    from requests import RequestException

    with _quiet("modelscope_hub"):
        try:
            folder = dataset_snapshot_download(
                id, revision=revision, allow_patterns=pattern, ignore_patterns=_other_names()
            )
        except (HubError, RequestException) as error:
            try:
                known = Path(dataset_snapshot_download(id, revision=revision, local_files_only=True))
            except HubError:
                raise ConnectionError(str(error)) from error
            if isinstance(error, FileDownloadError):  # some of the files may be newer than others now
                for mark in known.glob(f"{_MARK}*"):
                    mark.unlink()
            if not any((known / _mark(fetched)).exists() for fetched in (pattern, None)):
                raise ConnectionError(str(error)) from error
            logger.warning("modelscope does not give %s; taking what was fetched before, in %s", id, known)
            return known
    (Path(folder) / _mark(pattern)).touch()
    return Path(folder)


@contextmanager
def _quiet(library: str) -> Iterator[None]:
    """Keeps the library from logging each of its tries, whose outcome we tell."""
    log = logging.getLogger(library)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def _mark(pattern: str | None) -> str:
    """The name of the empty file that says: all that matches the pattern is here."""
    return _MARK + hashlib.sha256((pattern or "").encode()).hexdigest()[:16]


def _other_names() -> list[str]:
    """Globs that match just the names which end in none of files.SUFFIXES.

    Of several globs that the clients are given to allow, one is enough; so what is to hold besides the user's pattern
    can only be said by what to ignore. A name is another if it ends like a suffix up to a character that no suffix has
    there.
    """
    before = defaultdict(set)  # the characters that suffixes have before each of their endings
    for suffix in files.SUFFIXES:
        for place, character in enumerate(suffix):
            before[suffix[place + 1 :]].add(character)
    longer = [f"*[!{''.join(sorted(characters))}]{ending}" for ending, characters in before.items()]
    return longer + [ending for ending in before if ending]


HUBS = {"modelscope": _from_modelscope, "huggingface": _from_huggingface}
