"""`LiveView`: a pool in a notebook, refreshed by ipywidgets while it lives."""

from __future__ import annotations

import sys
import threading
import weakref

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from typing import Any

PERIOD = 1.0
"""Seconds between refreshes."""


class ShownPool(Protocol):
    """A pool as its view uses it."""

    name: str

    @property
    def has_ended(self) -> bool:
        """True if nothing of the pool is left."""
        ...

    def html(self, title: str) -> str:
        """Return HTML that shows the pool now."""
        ...


class LiveView:
    """A widget that shows a pool, and the thread that refreshes it until the pool ends.

    A thread, because the kernel's own loop waits while a cell runs. It holds no pool, so a pool that is dropped still
    ends.

    Args:
        pool: the pool.
        title: the title of the view.

    Raises:
        ImportError: ipywidgets is not installed.
    """

    def __init__(self, pool: ShownPool, title: str) -> None:
        import ipywidgets

        self.widget: Any = ipywidgets.HTML(pool.html(title))
        self._title = title
        self._pool = weakref.ref(pool)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._refresh, name=f"dragonfly-{pool.name}-view", daemon=True)
        self._thread.start()

    def _refresh(self) -> None:
        while not self._closed.wait(PERIOD) and self._show():
            continue

    def _show(self) -> bool:
        """Show the pool as it is now. Returns False if it has ended, or the user has closed the widget."""
        pool = self._pool()
        if pool is None or self.widget.comm is None:
            return False
        is_last = pool.has_ended
        self.widget.value = pool.html(self._title)
        return not is_last

    def close(self) -> None:
        """End the thread."""
        self._closed.set()
        self._thread.join()


def widget_bundle(pool: ShownPool, view: LiveView | None, title: str) -> tuple[LiveView | None, dict[str, Any]]:
    """Return the view of a pool, which is made if there is none, and what Jupyter shows of it.

    Outside of a Jupyter kernel, and without ipywidgets, there is no view, and Jupyter shows the HTML of the pool.

    Args:
        pool: the pool.
        view: the pool's view, which all cells share.
        title: the title of a new view.
    """
    application = getattr(sys.modules.get("ipykernel.kernelapp"), "IPKernelApp", None)
    if application is None or not application.initialized() or pool.has_ended:
        return view, {}
    if view is None:
        try:
            view = LiveView(pool, title)
        except ImportError:
            return None, {}
    return view, {**view.widget._repr_mimebundle_(), "text/plain": repr(pool)}  # Jupyter's protocol
