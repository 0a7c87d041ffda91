"""Uploaded pictures, measured and decoded in processes that crash or hang without the server."""

import io
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ...pipelines.imaging.decode import FORMATS, Rejected, decode
from ...pipelines.packing.worker_pool import TaskFailure, Workers


@dataclass(frozen=True, kw_only=True)
class Measure:
    """Asks for a picture's size."""

    data: bytes


@dataclass(frozen=True, kw_only=True)
class Decode:
    """Asks for a picture's pixels."""

    data: bytes


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a picture's header says, in pixels; `kind` is its format."""

    width: int
    height: int
    kind: str


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """An upright picture, sRGB (H, W, 3), and what had to be done to get it."""

    pixels: NDArray[np.uint8]
    done: tuple[str, ...]


Task = Measure | Decode
Answer = Measured | Decoded | Rejected


def answer(task: Task) -> Answer:
    """What a worker does."""
    try:
        if isinstance(task, Measure):
            return _measured(task.data)
        pixels, _, done = decode(task.data)
        return Decoded(pixels=pixels, done=done)
    except Rejected as reason:
        return reason
    except MemoryError:
        return Rejected("too large", "more than the memory of this machine holds")


def _measured(data: bytes) -> Measured:
    if not data:
        raise Rejected("empty file")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's bomb warning: the limit is the server's
        try:
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        except UnidentifiedImageError:
            raise Rejected("not an image") from None
        except Image.DecompressionBombError:
            raise Rejected("too many pixels", "its header announces more than any photograph has") from None
        except MemoryError:
            raise
        except Exception as error:  # Pillow's plugins raise every kind
            raise Rejected("damaged", f"{type(error).__name__}: {error}") from None
    return Measured(width=image.width, height=image.height, kind=str(image.format))


class Decoders:
    """A number of processes, each with a thread that waits for it.

    What crashes one, or takes longer than `seconds`, is tried once more, and then `TaskFailure`.
    """

    def __init__(self, *, number: int, seconds: float, function: Callable[[Task], Answer] = answer) -> None:
        self._seconds, self._function = seconds, function
        self._jobs: SimpleQueue[tuple[Task, Future[Answer | TaskFailure]] | None] = SimpleQueue()
        self._threads = [Thread(target=self._work, daemon=True) for _ in range(number)]
        for thread in self._threads:
            thread.start()

    def submit(self, task: Task) -> Future[Answer | TaskFailure]:
        """Its answer, in time."""
        future: Future[Answer | TaskFailure] = Future()
        self._jobs.put((task, future))
        return future

    def close(self) -> None:
        """Ends those that are idle; the others end with this process."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join(timeout=1)

    def _work(self) -> None:
        with Workers(self._function, number=1, seconds=self._seconds, ahead=1) as worker:
            while job := self._jobs.get():
                task, future = job
                if not future.set_running_or_notify_cancel():
                    continue
                try:
                    ((_, result),) = worker.map([task])
                    future.set_result(result)
                except Exception as error:  # the server's to tell
                    future.set_exception(error)
