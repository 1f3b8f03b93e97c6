"""Makes the engine of a pool from the user's options: it checks them, and completes them by what the backend knows."""

from __future__ import annotations

from collections.abc import Mapping

from dragonfly_executor import errors
from dragonfly_executor.api.options import core_limits, read_options
from dragonfly_executor.api.registry import check_backend
from dragonfly_executor.protocol.parent import Parent, max_depth
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from dragonfly_executor.backends.base import Backend
    from dragonfly_executor.engine.engine import Engine
    from dragonfly_executor.serialization import CallCodec
    from dragonfly_executor.sync import FileSnapshot


def make_engine(name: str, backend: Backend, options: Mapping[str, Any]) -> tuple[Engine, CallCodec]:
    """Return the engine of a pool, not started, and its codec.

    Raises:
        ValueError: an option is out of range.
        TypeError: an option has the wrong type, or there is no such option, or this is not a backend.
        NestingError: this process is a runner that is already as deep as runners may be.
    """
    # These are half of the package, and a program that only imports the names need not load them.
    from dragonfly_executor.engine.engine import Engine
    from dragonfly_executor.serialization import CallCodec

    check_backend(backend)
    given = dict(options)
    if depth():
        # A runner that boots the runners of its own start-up would never end.
        given["min"] = 0
    pool_options = read_options(name, backend, given)
    file_snapshot = _file_snapshot(backend)
    codec = CallCodec(
        pool_options.serializer,
        script_travels=file_snapshot is None or file_snapshot.script_travels,
        path_travels=file_snapshot is None or backend.shares_image,
        on_code=None if file_snapshot is None else file_snapshot.code_travels,
    )
    return Engine(pool_options, core_limits(pool_options, backend), backend, codec, file_snapshot), codec


def depth() -> int:
    """Return how many runners this process is inside of.

    Raises:
        NestingError: the runners of a pool here would be deeper than runners may be.
    """
    parent = Parent.get()
    depth = parent.depth if parent else 0
    if depth >= max_depth():
        raise errors.NestingError(
            f"this process is a runner, {depth} deep, and runners may be {max_depth()} deep at most; "
            "a call that needs runners of its own can raise that with DRAGONFLY_MAX_DEPTH"
        )
    return depth


def _file_snapshot(backend: Backend) -> FileSnapshot | None:
    """Return the files that the runners need of this machine; None if the runners see them."""
    if backend.sync is None:
        return None
    from dragonfly_executor.sync import FileSnapshot

    return FileSnapshot(backend.sync)
