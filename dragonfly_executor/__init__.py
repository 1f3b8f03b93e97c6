"""A `concurrent.futures.Executor` on an elastic pool of runners: machines that appear when they are needed.

    from dragonfly_executor import DragonflyExecutor

    with DragonflyExecutor() as executor:
        future = executor.submit(pow, 2, 10)

All names are loaded when they are first used (PEP 562): a runner imports this package too, and must start fast.
"""

from __future__ import annotations

from importlib import import_module

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from dragonfly_executor.api.call_stream import CallStream
    from dragonfly_executor.api.executor import DragonflyExecutor
    from dragonfly_executor.api.named_pools import call, cast, configure, pools
    from dragonfly_executor.api.placed_process import PlacedProcess
    from dragonfly_executor.api.placed_worker import PlacedWorker
    from dragonfly_executor.api.pool import Pool
    from dragonfly_executor.api.remote_object import RemoteObject
    from dragonfly_executor.backends.base import Backend, BootRequest, Node
    from dragonfly_executor.backends.budget import Budget
    from dragonfly_executor.backends.dask.backend import DaskBackend
    from dragonfly_executor.backends.docker.backend import DockerBackend
    from dragonfly_executor.backends.ec2.backend import EC2Backend
    from dragonfly_executor.backends.fly.backend import FlyBackend
    from dragonfly_executor.backends.frozen import freeze_support
    from dragonfly_executor.backends.kubernetes.backend import KubernetesBackend
    from dragonfly_executor.backends.local import LocalBackend
    from dragonfly_executor.backends.ray.backend import RayBackend
    from dragonfly_executor.backends.slurm.backend import SlurmBackend
    from dragonfly_executor.backends.ssh.backend import SSHBackend
    from dragonfly_executor.backends.ssh.hosts import SSHHost
    from dragonfly_executor.core.capacity import Capacity
    from dragonfly_executor.engine.future import Future
    from dragonfly_executor.engine.options import CallOptions
    from dragonfly_executor.engine.output.printer import OutputLine
    from dragonfly_executor.errors import (
        BootError,
        BootTimeoutError,
        BudgetExceeded,
        CallDeserializationError,
        CallSerializationError,
        CallTimeoutError,
        DragonflyError,
        ForkedExecutorError,
        FrameTooLargeError,
        HostKeyError,
        InitializerError,
        MultiprocessingObjectError,
        NestingError,
        PoisonCallError,
        PoolBrokenError,
        ProtocolError,
        QueueFullError,
        RemoteCallError,
        RequirementsError,
        ResultDeserializationError,
        ResultSerializationError,
        RunnerAuthError,
        RunnerLostError,
        SharedObjectError,
        StartError,
        VersionMismatchError,
        WorkerLostError,
    )
    from dragonfly_executor.protocol.call_progress import CallProgress
    from dragonfly_executor.protocol.parent import Parent
    from dragonfly_executor.protocol.versions import __version__
    from dragonfly_executor.runner.drain_notice import on_drain
    from dragonfly_executor.runner.progress_reports import progress
    from dragonfly_executor.serialization.process_result import ProcessResult
    from dragonfly_executor.serialization.remote_object import Remote
    from dragonfly_executor.serialization.shared_object import SharedObject

__all__ = [
    "Backend",
    "BootError",
    "BootRequest",
    "BootTimeoutError",
    "Budget",
    "BudgetExceeded",
    "CallDeserializationError",
    "CallOptions",
    "CallProgress",
    "CallSerializationError",
    "CallStream",
    "CallTimeoutError",
    "Capacity",
    "DaskBackend",
    "DockerBackend",
    "DragonflyError",
    "DragonflyExecutor",
    "EC2Backend",
    "FlyBackend",
    "ForkedExecutorError",
    "FrameTooLargeError",
    "Future",
    "HostKeyError",
    "InitializerError",
    "KubernetesBackend",
    "LocalBackend",
    "MultiprocessingObjectError",
    "NestingError",
    "Node",
    "OutputLine",
    "Parent",
    "PlacedProcess",
    "PlacedWorker",
    "PoisonCallError",
    "Pool",
    "PoolBrokenError",
    "ProcessResult",
    "ProtocolError",
    "QueueFullError",
    "RayBackend",
    "Remote",
    "RemoteCallError",
    "RemoteObject",
    "RequirementsError",
    "ResultDeserializationError",
    "ResultSerializationError",
    "RunnerAuthError",
    "RunnerLostError",
    "SSHBackend",
    "SSHHost",
    "SharedObject",
    "SharedObjectError",
    "SlurmBackend",
    "StartError",
    "VersionMismatchError",
    "WorkerLostError",
    "__version__",
    "call",
    "cast",
    "configure",
    "freeze_support",
    "on_drain",
    "pools",
    "progress",
]

_ROOMS = {
    "Backend": "backends.base",
    "BootRequest": "backends.base",
    "Budget": "backends.budget",
    "CallOptions": "engine.options",
    "CallProgress": "protocol.call_progress",
    "CallStream": "api.call_stream",
    "Capacity": "core.capacity",
    "DaskBackend": "backends.dask.backend",
    "DockerBackend": "backends.docker.backend",
    "DragonflyExecutor": "api.executor",
    "EC2Backend": "backends.ec2.backend",
    "FlyBackend": "backends.fly.backend",
    "Future": "engine.future",
    "KubernetesBackend": "backends.kubernetes.backend",
    "LocalBackend": "backends.local",
    "Node": "backends.base",
    "OutputLine": "engine.output.printer",
    "Parent": "protocol.parent",
    "PlacedProcess": "api.placed_process",
    "PlacedWorker": "api.placed_worker",
    "Pool": "api.pool",
    "ProcessResult": "serialization.process_result",
    "RayBackend": "backends.ray.backend",
    "Remote": "serialization.remote_object",
    "RemoteObject": "api.remote_object",
    "SSHBackend": "backends.ssh.backend",
    "SSHHost": "backends.ssh.hosts",
    "SharedObject": "serialization.shared_object",
    "SlurmBackend": "backends.slurm.backend",
    "__version__": "protocol.versions",
    "call": "api.named_pools",
    "cast": "api.named_pools",
    "configure": "api.named_pools",
    "freeze_support": "backends.frozen",
    "on_drain": "runner.drain_notice",
    "pools": "api.named_pools",
    "progress": "runner.progress_reports",
}
"""The module of each public name. Names that are missing here are errors."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_ROOMS.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
