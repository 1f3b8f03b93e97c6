"""Finds the GPUs that a runner may use, and divides them. It asks no library, because that takes long."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

from dragonfly_executor.core.gpu_shares import usual_share
from dragonfly_executor.runner.cgroups import read
from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final, TypeAlias

    Gpus: TypeAlias = dict[str, list[str]]
    """The names of GPUs, by the variable that says which of them a program sees."""

CUDA: Final = "CUDA_VISIBLE_DEVICES"
HIP: Final = "HIP_VISIBLE_DEVICES"
ROCR: Final = "ROCR_VISIBLE_DEVICES"
"""The variable of a layer below `HIP`. `HIP` counts only the GPUs that this layer shows, so a slot never sets both."""
NAMES: Final = ("GPU-", "MIG-")
KFD_NODES: Final = "sys/class/kfd/kfd/topology/nodes"


def find_gpus(environment: Mapping[str, str], root: str = "/") -> Gpus:
    """Return the GPUs that this process may use: the GPUs that its variables name, otherwise the machine's."""
    named = [name for name in (CUDA, HIP) if name in environment] or [name for name in (ROCR,) if name in environment]
    if named:
        return {name: visible(environment[name]) for name in named}
    for variable, count in ((CUDA, _count_nvidia(root)), (ROCR, _count_amd(root))):
        if count:
            return {variable: [str(index) for index in range(count)]}
    return {}


def count_gpus(gpus: Gpus) -> int:
    """Return the number of GPUs."""
    return len(next(iter(gpus.values()), ()))


def share_of(gpus: Gpus, number: int, slots: int) -> dict[str, str]:
    """Return the variables by which a slot sees its usual share.

    Args:
        gpus: those of the runner.
        number: the slot's number.
        slots: the number of slots. One slot has all GPUs, and needs no variable.
    """
    if slots == 1:
        return {}
    return {
        name: _joined(devices, usual_share(len(devices), number, slots)) for name, devices in gpus.items() if devices
    }


def only(gpus: Gpus, numbers: Iterable[int]) -> dict[str, str]:
    """Return the variables by which a slot sees only the GPUs with these numbers.

    Args:
        gpus: those of the runner.
        numbers: numbers from 0, in the order of `gpus`. If there are none, programs see no GPU.
    """
    chosen = sorted(numbers)
    return {name: _joined(devices, chosen) for name, devices in gpus.items()}


def _joined(devices: Sequence[str], numbers: Iterable[int]) -> str:
    return ",".join(devices[number] for number in numbers if number < len(devices))


def visible(text: str) -> list[str]:
    """Return the GPUs that a variable names: numbers, UUIDs, names of MIG devices.

    CUDA ignores all names from the first invalid one on.
    """
    found: list[str] = []
    for name in text.split(","):
        device = name.strip()
        if not (device.isdecimal() or device.startswith(NAMES)):
            break
        found.append(device)
    return found


def _count_nvidia(root: str) -> int:
    """Return the number of NVIDIA devices.

    Not from ``/proc/driver/nvidia``: a container sees all GPUs of the machine there, also those that it may not use.
    """
    folder = os.path.join(root, "dev")
    if not os.path.exists(os.path.join(folder, "nvidiactl")):
        return 0  # spares reading the folder
    names = (entry.removeprefix("nvidia") for entry in _entries(folder) if entry.startswith("nvidia"))
    return sum(name.isdecimal() for name in names)


def _count_amd(root: str) -> int:
    """Return the number of GPUs that ROCm may use.

    A node that is a CPU has the number 0. The number of a GPU that this process may not use cannot be read.
    """
    if not os.path.exists(os.path.join(root, "dev/kfd")):
        return 0
    folder = os.path.join(root, KFD_NODES)
    numbers = (read(os.path.join(folder, node), "gpu_id").strip() for node in _entries(folder))
    return sum(number.isdecimal() and int(number) > 0 for number in numbers)


def _entries(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []
