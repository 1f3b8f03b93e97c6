"""`RunningPools`: the pools of this user's programs, as the server of the page asks them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from dragonfly_executor.cli.status.client import PoolAddress, StatusError, ask_all

TIMEOUT = 1.0
"""Seconds to wait for a program that does not answer."""


class RunningPools:
    """The pools of all programs of this user. It is a `PoolSource`: each pool has the name of its socket as key."""

    def __init__(self) -> None:
        self._addresses: dict[str, PoolAddress] = {}

    async def reports(self) -> tuple[dict[str, Mapping[str, Any]], list[str]]:
        """Ask all pools at once."""
        answers = await asyncio.to_thread(ask_all, TIMEOUT)
        self._addresses = {address.path.name: address for address, _ in answers.reports}
        return {address.path.name: report for address, report in answers.reports}, answers.silent

    async def ask(self, key: str, request: Mapping[str, object]) -> Mapping[str, Any]:
        """Ask one pool."""
        address = self._addresses.get(key)
        if address is None:
            return {"error": f"there is no pool {key!r}: it has ended, or the page is older than this server"}
        try:
            return await asyncio.to_thread(address.ask, request, TIMEOUT)
        except StatusError as error:
            return {"error": str(error)}
        except OSError:
            return {"error": "the pool has ended"}

    def close(self) -> None:
        """Do nothing: each request ends within its timeout."""
