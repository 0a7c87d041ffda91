"""One module for each verb of the command line."""

import signal


def interrupt_at_signals() -> None:
    """Handles SIGTERM, which batch systems send, and SIGHUP of a terminal that closes, as Ctrl-C; nohup ignores it."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
