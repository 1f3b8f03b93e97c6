"""Whether a create is one that Fly would carry out (reference 1.3, 6)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.support.fly_simulator.errors import invalid
from tests.support.fly_simulator.uncertain import Switches

CPUS = {"shared": (1, 2, 4, 6, 8), "performance": (1, 2, 4, 6, 8, 10, 12, 14, 16)}
MB_PER_CPU = {"shared": (256, 2048), "performance": (2048, 8192)}
GPUS = ("a100-pcie-40gb", "a100-sxm4-80gb", "l40s", "a10")
DEFAULT_GUEST: dict[str, Any] = {"cpu_kind": "shared", "cpus": 1, "memory_mb": 256}
NAME = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")


def check_create(body: Any, switches: Switches) -> None:
    """Raise what Fly would answer to a body that it does not take."""
    if not isinstance(body, Mapping):
        raise invalid("json: cannot unmarshal into Go value of type main.createMachineRequest")
    config = body.get("config")
    if not isinstance(config, Mapping) or not config.get("image"):
        raise invalid("config.image is required")
    _check_name(body.get("name"), switches.name_limit)
    _check_guest(config.get("guest"), config.get("size"), switches)
    env = config.get("env") or {}
    if not all(isinstance(value, str) for value in env.values()):
        raise invalid("json: cannot unmarshal into Go struct field MachineConfig.env of type string")
    size = sum(len(key) + len(value) + 2 for key, value in env.items())
    if switches.env_limit is not None and size > switches.env_limit:
        raise invalid(f"config.env is {size} bytes, the limit is {switches.env_limit}")


def _check_name(name: Any, limit: int | None) -> None:
    if name is None:
        return
    if not isinstance(name, str) or not name or not NAME.issuperset(name):
        raise invalid("name may hold lowercase letters, digits and dashes only")
    if limit is not None and len(name) > limit:
        raise invalid(f"name is longer than {limit} characters")


def _check_guest(guest: Mapping[str, Any] | None, size: str | None, switches: Switches) -> None:
    if guest and size:
        raise invalid("config.size and config.guest are exclusive")
    guest = DEFAULT_GUEST | dict(guest or {})
    kind, cpus, memory = guest["cpu_kind"], guest["cpus"], guest["memory_mb"]
    status = switches.bad_guest_status
    if cpus not in CPUS.get(kind, ()):
        raise invalid(f"config.guest: there is no {kind} guest with {cpus} cpus", status)
    least, most = (each * cpus for each in MB_PER_CPU[kind])
    if memory < least:
        raise invalid(f"config.guest.memory_mb: {memory} MB is too low, the minimum is {least} MB", status)
    if memory > most:
        raise invalid(f"config.guest.memory_mb: {memory} MB is too high, the maximum is {most} MB", status)
    step = 256 if kind == "shared" else switches.performance_memory_step
    if memory % step:
        raise invalid(f"config.guest.memory_mb: {memory} MB is not a multiple of {step} MB", status)
    if guest.get("gpus") and guest.get("gpu_kind") not in GPUS:
        raise invalid(f"config.guest.gpu_kind: there is no {guest.get('gpu_kind')}", status)
