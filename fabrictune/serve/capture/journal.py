"""A journal: JSON lines appended to files of bounded size, each on the disk before it is said to be."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Generic, Self, TypeVar

from fabrictune.log import logger

Item = TypeVar("Item")

RETRY_SECONDS = 1.0  # between two tries to write lines that the disk has not taken
PRIVATE = 0o600  # what users say is in there


class Journal(Generic[Item]):
    """Appends `spelled(item)`, one line without its end, to `<folder>/<name>-<UTC time>-<n>.jsonl`.

    A thread of its own takes all items that wait, writes them and waits for the disk once, so that many callers do not
    wait for each other; `spelled` is called there, too. Every file belongs to one journal of one process, is begun
    with its first line, and is followed by a new one when it has reached `limit` bytes. A process that is killed
    leaves at most half a line, at the end of its last file.

    `written` counts lines, `size` their bytes. `trouble` says why the disk takes no lines at present, None if it does.
    Lines that it has not taken are kept and tried again, once a second and with every further item.
    """

    def __init__(self, folder: Path, name: str, limit: int, spelled: Callable[[Item], str]) -> None:
        self.written = self.size = 0
        self.trouble: str | None = None
        self._folder, self._name, self._limit, self._spelled = folder, name, limit, spelled
        self._number = 0
        self._file: int | None = None
        self._path = folder
        self._end = 0  # of what is on the disk of the present file
        self._kept: list[bytes] = []
        self._queue: queue.SimpleQueue[tuple[Item, Future[None]] | None] = queue.SimpleQueue()
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = threading.Thread(target=self._write_all, name="journal")
        self._writer.start()

    def append(self, item: Item) -> Future[None]:
        """Done when the line is on the disk; fails with OSError if the disk does not take it for now, or never will."""
        done: Future[None] = Future()
        done.set_running_or_notify_cancel()  # a caller that waits no longer does not take its line back
        if self._writer.is_alive():
            self._queue.put((item, done))
        else:
            done.set_exception(OSError(f"nothing is written to {self._folder} any more: its journal has ended"))
        return done

    def close(self) -> None:
        """Returns when all lines are on the disk. Raises OSError naming how many are not."""
        if self._writer.is_alive():
            self._queue.put(None)
            self._writer.join()
        if self._kept:
            raise OSError(f"{len(self._kept)} lines of {self._folder} are lost: {self.trouble}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write_all(self) -> None:
        is_open = True
        while is_open:
            taken = self._take()
            is_open = None not in taken
            self._write([one for one in taken if one is not None])
        self._leave_file()

    def _take(self) -> list[tuple[Item, Future[None]] | None]:
        """All that waits, at least one; nothing if it is time to try again what is kept."""
        taken = []
        with suppress(queue.Empty):
            taken.append(self._queue.get(timeout=RETRY_SECONDS if self._kept else None))
            while True:
                taken.append(self._queue.get_nowait())
        return taken

    def _write(self, taken: Sequence[tuple[Item, Future[None]]]) -> None:
        waiting = []
        for item, done in taken:
            try:
                self._kept.append(self._spelled(item).encode("utf-8") + b"\n")
                waiting.append(done)
            except Exception as error:  # of one item; the others' callers wait
                done.set_exception(error)
        if not self._kept:
            return
        try:
            self._put_on_disk(self._kept)
        except Exception as error:  # whatever it is: were this thread to die of it, callers would wait for ever
            words = (isinstance(error, OSError) and error.strerror) or repr(error)
            self._give_up_file()
            if self.trouble is None:
                logger.error("cannot write to %s (%s); trying again every second", self._path, words)
            self.trouble = f"{self._path}: {words}"
            for done in waiting:
                done.set_exception(OSError(f"{self._path} cannot be written to: {words}"))
            return
        if self.trouble is not None:
            logger.info("%s is written to again; nothing is lost", self._folder)
        self.trouble = None
        for done in waiting:
            done.set_result(None)

    def _put_on_disk(self, lines: list[bytes]) -> None:
        """Writes the lines and takes those that are on the disk from the list."""
        while lines:
            if self._file is None or self._end >= self._limit:
                self._leave_file()
                self._begin_file()
            assert self._file is not None
            count, length = 0, 0
            while count < len(lines) and self._end + length < self._limit:
                length += len(lines[count])
                count += 1
            left = memoryview(b"".join(lines[:count]))
            while left:
                left = left[os.write(self._file, left) :]
            os.fsync(self._file)
            self._end += length
            self.size += length
            self.written += count
            del lines[:count]

    def _begin_file(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        while self._file is None:
            self._number += 1
            moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
            self._path = self._folder / f"{self._name}-{moment}-{self._number:04}.jsonl"
            with suppress(FileExistsError):  # another journal's
                self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, PRIVATE)
        self._end = 0
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)  # the file's name, too
        finally:
            os.close(folder)

    def _give_up_file(self) -> None:
        """Ends the file where it is whole: after an error nobody knows how much of the last lines it holds."""
        if self._file is None:
            return
        with suppress(Exception):
            os.ftruncate(self._file, self._end)
            os.fsync(self._file)
        self._leave_file()

    def _leave_file(self) -> None:
        if self._file is None:
            return
        with suppress(OSError):
            os.close(self._file)
            if not self._end:
                self._path.unlink()
        self._file = None
