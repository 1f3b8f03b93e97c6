"""Proxies of multiprocessing's managers: real ones on the parent's machine, elsewhere the parent passes messages on."""

from __future__ import annotations

import os

from dragonfly_executor.runner.stand_ins import StandIn
from dragonfly_executor.serialization.object_details import machine
from dragonfly_executor.util import plain_pickle as pickle
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from dragonfly_executor.runner.stand_ins import Requests


class PassedProxy(StandIn):
    """Passes the messages of one proxy to its manager.

    Args:
        token: multiprocessing's reference to the object in the manager.
    """

    ORIGINAL = ("multiprocessing.managers", "BaseProxy")

    def __init__(self, client: Requests, number: int, token: Any) -> None:
        super().__init__(client, number, token)
        self._token = token

    def call(self, method: str, args: tuple[Any, ...] = (), kwds: dict[str, Any] | None = None) -> Any:
        """Call a method of the object in the manager: takes the place of the proxy's ``_callmethod``.

        Raises:
            Exception: the method's own.
        """
        from multiprocessing.managers import convert_to_error  # type: ignore[attr-defined]

        answer = self._call("call", pickle.dumps((self._token.id, method, args, kwds or {}), 5))
        kind, result = pickle.loads(answer)
        if kind == "#RETURN":
            return result
        raise convert_to_error(kind, result)


def proxy(client: Requests, number: int, detail: tuple[str, tuple[Any, Any], tuple[str, ...]]) -> Any:
    """Return a proxy.

    Args:
        client: sends requests.
        number: the number of the parent's proxy.
        detail: the parent's machine, multiprocessing's reduction of the proxy, and the names of its methods.
    """
    boot, (function, args), exposed = detail
    kind, token = args[0], args[1]
    if boot and boot == machine() and _is_here(token.address):
        from multiprocessing import AuthenticationError

        try:
            return function(*args)
        except (AuthenticationError, EOFError, OSError):
            pass  # a host that is this machine: its runners do not get the key. Or the manager cannot be reached
    if not isinstance(kind, type):
        from multiprocessing.managers import MakeProxyType  # type: ignore[attr-defined]

        kind = MakeProxyType(f"AutoProxy[{token.typeid}]", exposed)
    made: Any = object.__new__(kind)
    passed = PassedProxy(client, number, token)
    # multiprocessing's own class, whose methods all go through `_callmethod`.
    vars(made).update(_token=token, _id=token.id, _callmethod=passed.call, _isauto=True)
    return made


def _is_here(address: Any) -> bool:
    """Return whether a manager may be reached at this address of the parent's machine."""
    return not isinstance(address, str) or address.startswith("\0") or os.path.exists(address)
