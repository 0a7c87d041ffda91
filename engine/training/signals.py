"""Signals that ask a run to stop: the first is obeyed as soon as all processes can, a second one at once."""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ..console import console

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1") if hasattr(signal, name))
_SAME = 1.0  # seconds in which a launcher repeats what the terminal has told all processes


class RunStopped(Exception):
    """A run was asked to stop by the signal `number`, and did."""

    def __init__(self, number: int, sentence: str) -> None:
        super().__init__(sentence)
        self.number = number


class StopSignal:
    """Which signal has asked to stop, 0 for none yet.

    A thread of its own waits for signals: the one that trains may be held up, by another process that is gone for good.
    """

    def __init__(self) -> None:
        self.number = 0

    @contextmanager
    def installed(self, *, speaks: bool) -> Iterator[None]:
        """Catches signals in what follows; `speaks` is whether a person is told."""
        if threading.current_thread() is not threading.main_thread():  # which alone can catch any
            yield
            return
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        wakeup = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        heard = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]  # as nohup has it
        handlers = {number: signal.signal(number, lambda *_: None) for number in heard}
        thread = threading.Thread(target=self._listen, args=(ours, speaks), daemon=True)
        thread.start()
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(wakeup)
            theirs.close()
            thread.join()
            ours.close()

    def _listen(self, ours: socket.socket, speaks: bool) -> None:
        asked = 0.0
        while received := ours.recv(1):
            number = received[0]
            if number not in SIGNALS:
                continue
            name = signal.Signals(number).name
            if not self.number:
                self.number, asked = number, time.monotonic()
                if speaks:
                    console.print(f"{name}: stopping after this step; a second one stops at once")
            elif time.monotonic() > asked + _SAME:
                console.print(f"{name} again: leaving at once")
                os._exit(128 + number)
