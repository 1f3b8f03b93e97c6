"""The parts of the module `signal` that a runner uses.

Importing `signal` makes enumerations of all its constants. The numbers and functions here are the same, without names.
"""

from importlib import import_module

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

__all__ = [
    "NSIG",
    "SIGABRT",
    "SIGBUS",
    "SIGCHLD",
    "SIGFPE",
    "SIGHUP",
    "SIGILL",
    "SIGINT",
    "SIGKILL",
    "SIGPIPE",
    "SIGSEGV",
    "SIGSTOP",
    "SIGTERM",
    "SIGURG",
    "SIGXFSZ",
    "SIG_DFL",
    "SIG_IGN",
    "SIG_SETMASK",
    "default_int_handler",
    "getsignal",
    "name_of",
    "pthread_sigmask",
    "set_wakeup_fd",
    "signal",
]

if TYPE_CHECKING:
    from signal import (
        NSIG,
        SIG_DFL,
        SIG_IGN,
        SIG_SETMASK,
        SIGABRT,
        SIGBUS,
        SIGCHLD,
        SIGFPE,
        SIGHUP,
        SIGILL,
        SIGINT,
        SIGKILL,
        SIGPIPE,
        SIGSEGV,
        SIGSTOP,
        SIGTERM,
        SIGURG,
        SIGXFSZ,
        default_int_handler,
        getsignal,
        pthread_sigmask,
        set_wakeup_fd,
        signal,
    )
else:
    from _signal import (
        NSIG,
        SIG_DFL,
        SIG_IGN,
        SIG_SETMASK,
        SIGABRT,
        SIGBUS,
        SIGCHLD,
        SIGFPE,
        SIGHUP,
        SIGILL,
        SIGINT,
        SIGKILL,
        SIGPIPE,
        SIGSEGV,
        SIGSTOP,
        SIGTERM,
        SIGURG,
        SIGXFSZ,
        default_int_handler,
        getsignal,
        pthread_sigmask,
        set_wakeup_fd,
        signal,
    )


def name_of(number: int) -> str | None:
    """Return the name of a signal, such as "SIGKILL"; None if it has none."""
    every = vars(import_module("_signal")).items()
    names = [name for name, value in every if name[:3] == "SIG" and name[3] != "_" and value == number]
    # As in `signal.Signals`: of several names, the first in the alphabet.
    return min(names, default=None)
