"""Decodes uploads in processes, which can crash or hang without the server."""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread

from ...pipelines.imaging.decode import DecodedImage, Rejected, decode, open_image
from ...pipelines.packing.worker_pool import TaskFailure, Workers


@dataclass(frozen=True, kw_only=True)
class DecodeTask:
    """An image file to decode, or to read the header of."""

    data: bytes
    header_only: bool = False


@dataclass(frozen=True, kw_only=True)
class ImageHeader:
    """Size in pixels, not yet upright, and Pillow's name of the format."""

    width: int
    height: int
    format: str


DecodeResult = ImageHeader | DecodedImage | Rejected


def run_task(task: DecodeTask) -> DecodeResult:
    """Reads the header, or decodes the image."""
    try:
        if not task.header_only:
            return decode(task.data)
        image = open_image(task.data)
        return ImageHeader(width=image.width, height=image.height, format=str(image.format))
    except Rejected as rejected:
        return rejected
    except MemoryError:
        return Rejected("too large", "this machine has not enough memory")


class DecoderPool:
    """A number of decoder processes, each with a thread that waits for it.

    A task that crashes its process, or takes longer than `seconds`, is tried once more and then a TaskFailure.
    """

    def __init__(
        self, *, num_processes: int, seconds: float, function: Callable[[DecodeTask], DecodeResult] = run_task
    ) -> None:
        self._seconds, self._function = seconds, function
        self._queue: SimpleQueue[tuple[DecodeTask, Future[DecodeResult | TaskFailure]] | None] = SimpleQueue()
        self._threads = [Thread(target=self._work, daemon=True) for _ in range(num_processes)]
        for thread in self._threads:
            thread.start()

    def submit(self, task: DecodeTask) -> Future[DecodeResult | TaskFailure]:
        """Queues a task; returns its future."""
        future: Future[DecodeResult | TaskFailure] = Future()
        self._queue.put((task, future))
        return future

    def close(self) -> None:
        """Ends idle processes; busy ones end with the server."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join(timeout=1)

    def _work(self) -> None:
        with Workers(self._function, number=1, seconds=self._seconds, ahead=1) as worker:
            while queued := self._queue.get():
                task, future = queued
                if not future.set_running_or_notify_cancel():
                    continue
                try:
                    ((_, result),) = worker.map([task])
                    future.set_result(result)
                except Exception as error:  # raised where the future is awaited
                    future.set_exception(error)
