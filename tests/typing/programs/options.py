"""Options: a misspelt name or a value of another type is an error."""

from datetime import timedelta

from dragonfly_executor import (
    Budget,
    CallOptions,
    DragonflyExecutor,
    FlyBackend,
    LocalBackend,
    Pool,
    SSHBackend,
    configure,
)


def prepare(level: int, name: str = "") -> None:
    print(level, name)


def has_defaults(level: int = 0) -> None:
    print(level)


def calls(executor: DragonflyExecutor) -> None:
    executor.options()
    executor.options(timeout=3, queue_timeout=timedelta(seconds=1), run_timeout=None, retries=2, retry_on=OSError)
    executor.options(retry_on=(OSError, ValueError), requires={"gpus": 1}, priority=0.5, key=("a", 1))
    executor.options(max_queued=3, when_full="raise").options(max_queued=None)
    executor.wait_for(runners=2, timeout=timedelta(seconds=3))
    executor.options(timeout=3).options(cancel_running=False)
    CallOptions(timeout=3, retries=2)
    executor.options(slot_concurrency=8)

    executor.options(time_out=3)  # error: call-arg, reportCallIssue
    executor.options(timeout="3")  # error: arg-type, reportArgumentType
    executor.options(max=3)  # error: call-arg, reportCallIssue
    executor.options(3)  # error: call-arg, reportCallIssue
    executor.options(key=[1])  # error: arg-type, reportArgumentType
    executor.options(when_full="later")  # error: arg-type, reportArgumentType
    executor.wait_for(2)  # error: call-arg, reportCallIssue
    executor.options(retry_on="OSError")  # error: arg-type, reportArgumentType
    executor.options(slot_concurrency="8")  # error: arg-type, reportArgumentType
    CallOptions(retry=2)  # error: call-arg, reportCallIssue


def executors() -> None:
    DragonflyExecutor()
    DragonflyExecutor(4, None, prepare, (1,))
    DragonflyExecutor(max_workers=4, timeout=3, max=2, log=True, output=print, idle_shutdown_after=(3, lambda: True))
    DragonflyExecutor(backend=[LocalBackend(), SSHBackend("host")], scaling="thrifty", placement="pack")
    DragonflyExecutor(pool=Pool("pool", min=0, max=1))
    DragonflyExecutor(initializer=print, initargs=(1, "two"))
    DragonflyExecutor(initializer=has_defaults)
    DragonflyExecutor(initializer=lambda: None)
    DragonflyExecutor(budget=Budget(cost=3), slot_concurrency=8)

    DragonflyExecutor(boot_timout=3)  # error: call-arg, reportCallIssue
    DragonflyExecutor(timeout="3")  # error: arg-type, reportArgumentType
    DragonflyExecutor("4")  # error: arg-type, reportArgumentType
    DragonflyExecutor(scaling="slow")  # error: arg-type, reportArgumentType
    DragonflyExecutor(placement="first")  # error: arg-type, reportArgumentType
    DragonflyExecutor(backend=LocalBackend)  # error: arg-type, reportArgumentType
    DragonflyExecutor(initializer=prepare)  # error: arg-type, reportArgumentType
    DragonflyExecutor(initializer=prepare, initargs=("1",))  # error: arg-type, reportArgumentType
    DragonflyExecutor(initializer=prepare, initargs=(1, "", 2))  # error: arg-type, reportArgumentType
    DragonflyExecutor(4, None, prepare, ("1",))  # error: arg-type, reportArgumentType


def pools() -> None:
    with Pool(
        "pool", min=0, max=2, spare=1, max_workers=4, initializer=prepare, initargs=(1,), single_use=True
    ) as pool:
        pool.resize(max=3)
        pool.resize(maximum=3)  # error: call-arg, reportCallIssue
    Pool("pool", min=0)  # error: call-arg, reportCallIssue
    Pool("pool", min=0, max="2")  # error: arg-type, reportArgumentType
    Pool("pool", min=0, max=2, idle_shutdown=3)  # error: call-arg, reportCallIssue
    Pool("pool", min=0, max=2, on_event=3)  # error: arg-type, reportArgumentType


def backends() -> None:
    configure(backend=LocalBackend(max=2, slots=1))
    configure(backend=[LocalBackend(labels=["here"]), FlyBackend(image="image")])
    LocalBackend(maximum=2)  # error: call-arg, reportCallIssue
    LocalBackend(idle_shutdown_after="3")  # error: arg-type, reportArgumentType
    SSHBackend("host", usr="me")  # error: call-arg, reportCallIssue
    FlyBackend(image="image", regions="fra", idle=1)  # error: call-arg, reportCallIssue
    configure(backend="local")  # error: arg-type, reportArgumentType
    configure(LocalBackend())  # error: call-arg, reportCallIssue
