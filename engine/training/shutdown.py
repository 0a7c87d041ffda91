"""The ends of a run that are not its last step: a signal, or a process that is lost."""

import os
import platform
import re
import shlex
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psutil
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from ..checkpoints.checkpoint import CHECKPOINTS, list_checkpoints
from ..console import console

if TYPE_CHECKING:
    from .loop import Run

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
_REPEAT_SECONDS = 1.0  # a launcher repeats within this time what the terminal has sent to all processes

# The words of gloo and NCCL for a process that does not answer.
_LOST = re.compile(r"gloo|nccl|time-?d? ?out|connection (closed|reset)|pair closure", re.IGNORECASE)


class RunStopped(Exception):
    """A run was stopped by the signal `number`."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number = number


class LostProcess(ValueError):
    """Another process of the run is gone."""


class StopSignal:
    """The first signal that asks the run to stop; `number` is 0 until there is one.

    A thread of its own waits for signals, since the training thread may hang in a collective with a lost process.
    """

    def __init__(self) -> None:
        self.number = 0

    @contextmanager
    def installed(self, *, verbose: bool) -> Iterator[None]:
        """Catches signals inside the context; the first one is also printed if `verbose`."""
        if threading.current_thread() is not threading.main_thread():  # only the main thread can catch signals
            yield
            return
        receiver, sender = socket.socketpair()
        sender.setblocking(False)
        wakeup = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
        caught = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]  # nohup ignores SIGHUP
        handlers = {number: signal.signal(number, lambda *_: None) for number in caught}
        thread = threading.Thread(target=self._listen, args=(receiver, verbose), daemon=True)
        thread.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup)
            sender.close()
            thread.join()
            receiver.close()
            for number, handler in handlers.items():  # last: until then, nothing ends a process that has lost another
                signal.signal(number, handler)

    def _listen(self, receiver: socket.socket, verbose: bool) -> None:
        received_at = 0.0
        while data := receiver.recv(1):
            number = data[0]
            if number not in SIGNALS:
                continue
            name = signal.Signals(number).name
            if not self.number:
                self.number, received_at = number, time.monotonic()
                if verbose:
                    console.print(f"{name}: stopping after this step; a second one stops at once")
            elif time.monotonic() > received_at + _REPEAT_SECONDS:
                console.print(f"{name} again: leaving at once")
                os._exit(128 + number)


def ignore_signals() -> None:
    """Ignores signals from here on: launchers send them to every process, and again to those that are leaving."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def explain_lost_process(run: "Run") -> Iterator[None]:
    """Converts the errors of a backend that has lost a process to a LostProcess that says how to resume.

    torchrun reports last which rank was lost, on which host and by which signal.
    """
    try:
        yield
    except RuntimeError as error:
        if run.accelerator.num_processes == 1 or not (isinstance(error, dist.DistError) or _LOST.search(str(error))):
            raise
        saved = list_checkpoints(run.config.out / CHECKPOINTS)
        raise LostProcess(
            f"rank {run.accelerator.process_index} on {platform.node()} has lost another process in step {run.step}. "
            "If that one does not say why, it was killed (out of memory?) or cannot be reached. Resume from "
            f"{saved[0].name if saved else 'the beginning'} with: {launch_command()}"
        ) from None


@contextmanager
def report_to_torchrun() -> Iterator[None]:
    """Hands an error to torchrun, which prints it in its report at the end.

    A LostProcess is not handed over: it can be older than torchrun's own notice of the process that was killed, which
    would then not be reported as the root cause.
    """
    try:
        yield
    except LostProcess:
        raise
    except Exception as error:
        if "TORCHELASTIC_ERROR_FILE" in os.environ:
            get_error_handler().record_exception(error)
        raise


def launch_command() -> str:
    """Returns the command line that started this run: the launcher's if there is one."""
    launcher = psutil.Process(os.getppid()) if "LOCAL_RANK" in os.environ else psutil.Process()
    try:
        return shlex.join(launcher.cmdline())
    except psutil.Error:
        return shlex.join(sys.argv)
