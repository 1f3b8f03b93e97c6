"""The scheduler and the nodes: they give Pods a node, pull their images, and run their processes."""

from __future__ import annotations

import asyncio
import base64
import math
import shutil
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.fly_simulator.processes import MachineProcess
from tests.support.kubernetes_simulator.api import mark_deleted
from tests.support.kubernetes_simulator.images import PodImage
from tests.support.kubernetes_simulator.statuses import StatusError
from tests.support.kubernetes_simulator.store import Key, Store, StoredEvent, now
from tests.support.kubernetes_simulator.validation import quantity

Json = dict[str, Any]
OOM = 137


@dataclass
class Timing:
    """Time spans, in seconds.

    Attributes:
        second: what a second of a grace period or a deadline is here.
        schedule: until the scheduler looks at a Pod.
        config_retry: until a kubelet looks again for a Secret that a container needs.
        pull_retry: until a kubelet pulls again.
    """

    second: float = 1.0
    schedule: float = 0.0
    config_retry: float = 0.1
    pull_retry: float = 0.2


@dataclass
class ClusterNode:
    """A node.

    Attributes:
        name: the node's.
        cpu, memory: what Pods may ask for, in all.
        devices: the same of extended resources, such as GPUs, by their name.
        labels, taints: the node's.
        is_lost: whether nothing is heard of it: its processes have ended, and its reports do not come.
    """

    name: str
    cpu: float = 16.0
    memory: float = 64 * 2.0**30
    devices: dict[str, float] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    taints: list[Json] = field(default_factory=list)
    is_lost: bool = False


class Nodes:
    """All nodes, and the control loops of the cluster.

    Args:
        loop: the simulator's.
        store: the objects.
        images: the registries.
        folder: the Pods' own files are below it.

    Attributes:
        nodes: by name.
        timing: how long things take.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, store: Store, images: dict[str, PodImage], folder: Path
    ) -> None:
        self._loop = loop
        self._store = store
        self._images = images
        self._folder = folder
        self.timing = Timing()
        self.nodes: dict[str, ClusterNode] = {"node-1": ClusterNode("node-1")}
        self._timers: dict[Key, set[asyncio.TimerHandle]] = {}
        self._processes: dict[Key, MachineProcess] = {}
        self._reasons: dict[Key, Json] = {}
        """What ends a Pod whose process is being ended, as fields of its status."""
        self._ooms: set[Key] = set()
        self._ended = asyncio.Event()
        self._is_closed = False
        store.listeners.append(self._on_event)

    # -- what tests do -------------------------------------------------------------------------------------------------

    def pid(self, key: Key) -> int | None:
        """The first process of a Pod."""
        process = self._processes.get(key)
        return process.pid if process else None

    def log(self, key: Key) -> Path:
        """What a Pod's processes have written."""
        return self._folder / f"{key[2]}.log"

    def finish_pull(self, key: Key) -> None:
        """The image of a Pod is there now, however long that would have taken."""
        self._drop_timers(key)
        self._start(key)

    def run_out_of_memory(self, key: Key) -> None:
        """The kernel kills the container's processes."""
        self._ooms.add(key)
        self._processes[key].kill()

    def evict_by_node(self, key: Key, resource: str = "memory") -> None:
        """The kubelet needs memory or disk."""
        message = f"The node was low on resource: {resource}. Threshold quantity: 100Mi, available: 80Mi. "
        self._disrupt(key, "TerminationByKubelet", message)
        self._end(key, {"reason": "Evicted", "message": message}, 0.0)

    def evict(self, key: Key, reason: str = "EvictionByEvictionAPI", message: str = "Eviction API: evicting") -> None:
        """Somebody drains the node, or a Pod of higher priority comes."""
        self._disrupt(key, reason, message)
        self.delete(key, self._store.get(key)["spec"].get("terminationGracePeriodSeconds", 30))

    def lose_node(self, name: str) -> None:
        """The node loses its power. The cluster hears nothing of it, and evicts its Pods."""
        node = self.nodes[name]
        node.is_lost = True
        for key in self._on(node):
            if key in self._processes:
                self._processes[key].kill()
            message = "Taint manager: deleting due to NoExecute taint"
            self._disrupt(key, "DeletionByTaintManager", message)
            self._store.change(key, lambda pod: mark_deleted(pod, 30))

    def remove_node(self, name: str) -> None:
        """An administrator, or the cloud, removes a node. Its Pods go with it."""
        node = self.nodes.pop(name)
        for key in self._on(node):
            self._disrupt(key, "DeletionByPodGC", "PodGC: node no longer exists")
            if key in self._processes:
                self._processes[key].kill()
            self._forget(key)

    # -- what the API server asks for ----------------------------------------------------------------------------------

    def delete(self, key: Key, grace: float) -> None:
        """Carry out a deletion."""
        pod = self._store.get(key)
        ended = pod["status"]["phase"] in ("Succeeded", "Failed")
        if not pod["spec"].get("nodeName") or ended or grace == 0:
            if key in self._processes:
                self._processes[key].kill()
            self._forget(key)
            return
        self._store.change(key, lambda changed: mark_deleted(changed, grace))
        node = self.nodes.get(pod["spec"]["nodeName"])
        if node is None or node.is_lost:
            return
        if key in self._processes:
            self._end(key, {}, self._store.get(key)["metadata"]["deletionGracePeriodSeconds"])
        else:
            self._forget(key)

    async def close(self) -> None:
        """End everything that runs, and wait until it has ended."""
        self._is_closed = True
        for key in tuple(self._timers):
            self._drop_timers(key)
        for process in tuple(self._processes.values()):
            process.kill()
        while self._processes:
            self._ended.clear()
            await self._ended.wait()

    # -- control loops -------------------------------------------------------------------------------------------------

    def _on_event(self, event: StoredEvent) -> None:
        if event.key[0] == "pods" and event.kind == "ADDED" and not event.object["spec"].get("nodeName"):
            self._later(event.key, self.timing.schedule, self._schedule)
        if event.kind == "DELETED":
            self._loop.call_soon(self._collect_garbage)
            for key in self._waiting():
                self._later(key, self.timing.schedule, self._schedule)

    def schedule_again(self) -> None:
        """The nodes have changed."""
        for key in self._waiting():
            self._schedule(key)

    def _waiting(self) -> list[Key]:
        return [
            ("pods", pod["metadata"]["namespace"], pod["metadata"]["name"])
            for pod in self._store.find("pods")
            if not pod["spec"].get("nodeName")
        ]

    def _collect_garbage(self) -> None:
        """Delete objects none of whose owners exists."""
        uids = self._store.uids
        for resource in ("pods", "secrets"):
            for found in self._store.find(resource):
                metadata = found["metadata"]
                owners = metadata.get("ownerReferences") or []
                if owners and not any(owner["uid"] in uids for owner in owners):
                    key = (resource, metadata["namespace"], metadata["name"])
                    if resource == "pods" and not metadata.get("deletionTimestamp"):
                        self.delete(key, found["spec"].get("terminationGracePeriodSeconds", 30))
                    elif resource == "secrets":
                        self._store.remove(key)

    def _schedule(self, key: Key) -> None:
        with suppress(StatusError):
            pod = self._store.get(key)
            if pod["spec"].get("nodeName"):
                return
            refusals: dict[str, int] = {}
            for node in self.nodes.values():
                why = self._refusal(pod, node)
                if not why:
                    self._bind(key, node)
                    return
                refusals[why] = refusals.get(why, 0) + 1
            said = ", ".join(f"{count} {why}" for why, count in sorted(refusals.items()))
            message = f"0/{len(self.nodes)} nodes are available: {said}. preemption: not helpful for scheduling"
            condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
            if condition.items() <= self._condition(pod, "PodScheduled").items():
                return
            self._store.change(key, lambda changed: set_condition(changed, condition))

    def _condition(self, pod: Json, kind: str) -> Json:
        return next((one for one in pod["status"].get("conditions", []) if one["type"] == kind), {})

    def _refusal(self, pod: Json, node: ClusterNode) -> str:
        spec = pod["spec"]
        if not (spec.get("nodeSelector") or {}).items() <= node.labels.items():
            return "node(s) didn't match Pod's node affinity/selector"
        tolerations = spec.get("tolerations") or []
        for taint in node.taints:
            if not any(_tolerates(one, taint) for one in tolerations):
                return f"node(s) had untolerated taint {{{taint['key']}: {taint.get('value', '')}}}"
        if node.is_lost:
            return "node(s) had untolerated taint {node.kubernetes.io/unreachable: }"
        used = [_requests(self._store.get(key)) for key in self._on(node)]
        wanted = _requests(pod)
        has = {"cpu": node.cpu, "memory": node.memory, "ephemeral-storage": math.inf, **node.devices}
        for name, amount in wanted.items():
            if amount + sum(one.get(name, 0.0) for one in used) > has.get(name, 0.0):
                return f"Insufficient {name}"
        return ""

    def _on(self, node: ClusterNode) -> list[Key]:
        return [
            ("pods", pod["metadata"]["namespace"], pod["metadata"]["name"])
            for pod in self._store.find("pods")
            if pod["spec"].get("nodeName") == node.name and pod["status"]["phase"] not in ("Succeeded", "Failed")
        ]

    # -- a node --------------------------------------------------------------------------------------------------------

    def _bind(self, key: Key, node: ClusterNode) -> None:
        def bind(pod: Json) -> None:
            pod["spec"]["nodeName"] = node.name
            set_condition(pod, {"type": "PodScheduled", "status": "True"})
            pod["status"] |= {"startTime": now(), "hostIP": "127.0.0.1"}
            set_waiting(pod, "ContainerCreating")

        self._store.change(key, bind)
        pod = self._store.get(key)
        deadline = pod["spec"].get("activeDeadlineSeconds")
        if deadline is not None:
            self._later(key, deadline * self.timing.second, self._exceed)
        self._pull(key)

    def _pull(self, key: Key) -> None:
        pod = self._store.get(key)
        name = container_of(pod)["image"]
        image = self._images.get(name, PodImage(failure=f"{name}: not found"))
        if image.failure:
            text = f'failed to pull and unpack image "{name}": {image.failure}'
            waiting = self._waiting_reason(pod)
            said = f'Back-off pulling image "{name}": ErrImagePull: {text}'
            change = ("ErrImagePull", text) if waiting != "ErrImagePull" else ("ImagePullBackOff", said)
            self._store.change(key, lambda changed: set_waiting(changed, *change))
            self._later(key, self.timing.pull_retry, self._pull)
        elif image.pull_time is not None:
            self._later(key, image.pull_time, self._start)

    def _waiting_reason(self, pod: Json) -> str:
        statuses = pod["status"].get("containerStatuses") or [{}]
        return str(((statuses[0].get("state") or {}).get("waiting") or {}).get("reason"))

    def _start(self, key: Key) -> None:
        pod = self._store.get(key)
        container = container_of(pod)
        image = self._images[container["image"]]
        try:
            given = self._environment(key, container)
        except StatusError as error:
            waits = ("CreateContainerConfigError", error.message)
            if self._waiting_reason(pod) != waits[0]:
                self._store.change(key, lambda changed: set_waiting(changed, *waits))
            self._later(key, self.timing.config_retry, self._start)
            return
        root = self._folder / key[2]
        for part in ("root", "tmp"):
            (root / part).mkdir(parents=True, exist_ok=True)
        # A command replaces the image's ENTRYPOINT and its CMD; arguments replace its CMD.
        words = container.get("command") or list(image.entrypoint)
        words = [*words, *(container.get("args") or ([] if container.get("command") else image.cmd))]
        environment = {
            "HOME": f"{root}/root", "TMPDIR": f"{root}/tmp", **image.env, "HOSTNAME": key[2],
            "KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443", **given,
        }  # fmt: skip
        self._processes[key] = MachineProcess(
            self._loop, words, environment, container.get("workingDir") or image.workdir or f"{root}/root",
            self.log(key), f"HOSTNAME={key[2]}", lambda code, number: self._gone(key, code, number),
        )  # fmt: skip

        def runs(changed: Json) -> None:
            changed["status"] |= {"phase": "Running", "podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}]}
            set_state(changed, {"running": {"startedAt": now()}}, ready=True)
            set_condition(changed, {"type": "Ready", "status": "True"})

        self._store.change(key, runs)

    def _environment(self, key: Key, container: Json) -> dict[str, str]:
        """The variables of a container. A Secret that is not there keeps it from starting."""
        found = {}
        for entry in container.get("env") or []:
            if "valueFrom" not in entry:
                found[entry["name"]] = entry.get("value", "")
                continue
            reference = entry["valueFrom"]["secretKeyRef"]
            try:
                data = self._store.get(("secrets", key[1], reference["name"])).get("data") or {}
            except StatusError:
                raise StatusError(404, "NotFound", f'secret "{reference["name"]}" not found') from None
            if reference["key"] not in data:
                raise StatusError(404, "NotFound", f"couldn't find key {reference['key']} in Secret")
            found[entry["name"]] = base64.b64decode(data[reference["key"]]).decode()
        return found

    def _exceed(self, key: Key) -> None:
        message = "Pod was active on the node longer than the specified deadline"
        self._end(key, {"reason": "DeadlineExceeded", "message": message}, self._grace(key))

    def _grace(self, key: Key) -> float:
        return float(self._store.get(key)["spec"].get("terminationGracePeriodSeconds", 30))

    def _end(self, key: Key, why: Json, grace: float) -> None:
        """End the processes of a Pod, with SIGTERM first."""
        if why:
            self._reasons[key] = why
        if key in self._processes:
            if grace:
                self._processes[key].signal(signal.SIGTERM)
                self._later(key, grace * self.timing.second, self._kill)
            else:
                self._processes[key].kill()
        elif why:
            self._store.change(key, lambda pod: _fail(pod, why))

    def _kill(self, key: Key) -> None:
        if key in self._processes:
            self._processes[key].kill()

    def _gone(self, key: Key, code: int, number: int) -> None:
        del self._processes[key]
        self._ended.set()
        why = self._reasons.pop(key, {})
        is_oom = key in self._ooms
        self._ooms.discard(key)
        if self._is_closed:
            return
        try:
            pod = self._store.get(key)
        except StatusError:
            self._clear(key)
            return
        node = self.nodes.get(pod["spec"]["nodeName"])
        if node is None or node.is_lost:
            return
        self._drop_timers(key)
        log = self.log(key).read_bytes()[-2048:].decode(errors="replace")

        def ended(changed: Json) -> None:
            reason = "OOMKilled" if is_oom else "Completed" if code == 0 else "Error"
            reason = "StartError" if code in (126, 127) and number < 0 and not is_oom and "strerror" in log else reason
            state: Json = {"exitCode": OOM if is_oom else code, "reason": reason, "finishedAt": now()}
            if code and container_of(changed).get("terminationMessagePolicy") == "FallbackToLogsOnError" and log:
                state["message"] = log
            set_state(changed, {"terminated": state}, ready=False)
            changed["status"] |= {"phase": "Succeeded" if code == 0 and not why else "Failed", **why}

        self._store.change(key, ended)
        if pod["metadata"].get("deletionTimestamp"):
            self._forget(key)

    # -- the rest ------------------------------------------------------------------------------------------------------

    def _disrupt(self, key: Key, reason: str, message: str) -> None:
        condition = {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message}
        self._store.change(key, lambda pod: set_condition(pod, condition))

    def _forget(self, key: Key) -> None:
        self._drop_timers(key)
        self._store.remove(key)
        if key not in self._processes:
            self._clear(key)

    def _clear(self, key: Key) -> None:
        shutil.rmtree(self._folder / key[2], ignore_errors=True)

    def _later(self, key: Key, seconds: float, step: Callable[[Key], None]) -> None:
        timers = self._timers.setdefault(key, set())

        def run() -> None:
            timers.discard(timer)
            with suppress(StatusError):
                step(key)

        timer = self._loop.call_later(seconds, run)
        timers.add(timer)

    def _drop_timers(self, key: Key) -> None:
        for timer in self._timers.pop(key, ()):
            timer.cancel()


def container_of(pod: Json) -> Json:
    """The first container of a Pod."""
    found: Json = pod["spec"]["containers"][0]
    return found


def set_condition(pod: Json, condition: Json) -> None:
    """Set a condition of a Pod."""
    conditions = [one for one in pod["status"].get("conditions", []) if one["type"] != condition["type"]]
    pod["status"]["conditions"] = [*conditions, {**condition, "lastTransitionTime": now()}]


def set_waiting(pod: Json, reason: str, message: str = "") -> None:
    """The container waits."""
    set_state(pod, {"waiting": {"reason": reason, **({"message": message} if message else {})}}, ready=False)


def set_state(pod: Json, state: Json, *, ready: bool) -> None:
    """Set the state of the container."""
    container = container_of(pod)
    pod["status"]["containerStatuses"] = [{
        "name": container["name"], "image": container["image"], "imageID": "", "ready": ready, "restartCount": 0,
        "state": state,
    }]  # fmt: skip


def _fail(pod: Json, why: Json) -> None:
    pod["status"] |= {"phase": "Failed", **why}


def _tolerates(toleration: Json, taint: Json) -> bool:
    if toleration.get("effect") not in (None, "", taint["effect"]):
        return False
    if toleration.get("operator") == "Exists":
        return toleration.get("key") in (None, "", taint["key"])
    return toleration.get("key") == taint["key"] and toleration.get("value", "") == taint.get("value", "")


def _requests(pod: Json) -> dict[str, float]:
    resources = container_of(pod).get("resources") or {}
    # What has a limit and no request requests its limit.
    amounts = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return {name: quantity(amount) for name, amount in amounts.items()}
