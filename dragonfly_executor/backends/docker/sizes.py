"""Sizes of containers: the backend's own, and those for calls that require more. Pure."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from dragonfly_executor.core.capacity import UNKNOWN, Capacity, Requirements
from dragonfly_executor.errors import BootError
from dragonfly_executor.util.validation import whole

UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
SIZE_KEYS = frozenset({
    "CpuPeriod", "CpuQuota", "CpusetCpus", "DeviceRequests", "Memory", "MemorySwap", "NanoCpus",
})  # fmt: skip
"""Keys of the Engine's ``HostConfig`` by which a user may set the size. Then all containers have that size."""


class ContainerSize(NamedTuple):
    """The size of a container.

    Attributes:
        cpus: number of CPUs; None for all CPUs of the machine.
        memory: bytes; None for no limit.
        gpus: number of GPUs.
    """

    cpus: float | None
    memory: int | None
    gpus: int = 0

    def slots(self) -> int | None:
        """Return the number of calls at once; None for as many as the machine has CPUs."""
        return None if self.cpus is None else max(1, int(self.cpus))

    def host_config(self) -> dict[str, Any]:
        """Return the keys of ``HostConfig`` that limit a container to this size."""
        said: dict[str, Any] = {}
        if self.cpus is not None:
            said["NanoCpus"] = int(self.cpus * 1e9)
        if self.memory is not None:
            said["Memory"] = self.memory
        if self.gpus:
            # What ``docker run --gpus N`` sends.
            said["DeviceRequests"] = [{"Driver": "", "Count": self.gpus, "Capabilities": [["gpu"]]}]
        return said


class ContainerSizes:
    """The sizes that the containers of a backend may have.

    Args:
        default: the size for calls that require nothing.
        labels: the labels of the runners.
        may_grow: whether containers for calls that require more are larger.
        is_known: False if the user sets the size with keys of ``HostConfig``. Then all containers have that size, and
            their agents find out what it is.
    """

    def __init__(self, default: ContainerSize, labels: frozenset[str], *, may_grow: bool, is_known: bool) -> None:
        self.default = default
        self._labels = labels
        self._may_grow = may_grow
        self._is_known = is_known

    def largest(self) -> Capacity:
        """Return what a container can have. How large the machine is, the Engine knows, and not this program."""
        cpus, memory, gpus = self.default
        if self._may_grow or not self._is_known:
            return Capacity(UNKNOWN, UNKNOWN, UNKNOWN, self._labels)
        return Capacity(UNKNOWN if cpus is None else cpus, gpus, UNKNOWN if memory is None else memory, self._labels)

    def for_boot(self, required: Requirements | None) -> ContainerSize:
        """Return the size of a container: of each thing what the backend's own size has, or more if calls require it.

        Raises:
            BootError: calls require more than a container can have.
        """
        if required is None:
            return self.default
        if not required.fit(self.largest()):
            text = f"the calls require {required}, and a container has {self.largest()}"
            raise BootError(f"{text}: raise cpus=, memory= or gpus=, or add to labels=", "create", final=True)
        if not self._may_grow or not self._is_known:
            return self.default
        cpus, memory, gpus = self.default
        return ContainerSize(
            None if cpus is None else max(cpus, required.cpus),
            None if memory is None else max(memory, required.memory),
            max(gpus, required.gpus),
        )

    def capacity(self, size: ContainerSize) -> Capacity | None:
        """Return what a container of this size has; None if its agent must find out, because a part has no limit."""
        if size.cpus is None or size.memory is None or not self._is_known:
            return None
        return Capacity(float(size.cpus), size.gpus, size.memory, self._labels)


def memory_bytes(memory: int | str | None) -> int | None:
    """Return a size of memory in bytes, from a number or from text such as "512m", "2g" or "2GiB".

    Raises:
        TypeError, ValueError: it is no size.
    """
    if memory is None:
        return None
    if isinstance(memory, str):
        found = re.fullmatch(r"(\d+)\s*([kmgt]?)(i?b)?", memory.strip().lower())
        if found is None:
            raise ValueError(f"memory= is a number of bytes, or text such as '2g', and not {memory!r}")
        return whole(int(found[1]) * UNITS[found[2]], "memory", 1)
    return whole(memory, "memory", 1)
