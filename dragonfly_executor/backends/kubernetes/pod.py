"""A Pod as the API server shows it, and its state in words. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from dragonfly_executor.backends.kubernetes.answers import one_line
from dragonfly_executor.backends.kubernetes.reasons import (
    DISRUPTIONS,
    HOPELESS_PULLS,
    POD_REASONS,
    WAITING_FAILURES,
    describe_exit,
)

CONTAINER = "runner"
"""The name of the runner's container."""


class PodFailure(NamedTuple):
    """Reason why a Pod's runner will not come.

    Attributes:
        text: the reason in words.
        phase: the phase of the boot that failed.
        output: the end of the container's output, if the cluster has it.
        final: whether every other boot fails until a person changes something.
    """

    text: str
    phase: str
    output: str = ""
    final: bool = False


class Pod(NamedTuple):
    """A Pod as the API server shows it.

    Attributes:
        name, uid: the Pod's.
        version: its resource version.
        node: the name of its node; "" before it is scheduled.
        labels, annotations: its metadata.
        created: when it was created, as the API writes it.
        is_deleted: whether its deletion was asked for.
        phase: Pending, Running, Succeeded, Failed or Unknown.
        ip: its address; "" before it has one.
        status: all of its status.
    """

    name: str
    uid: str
    version: str
    node: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    created: str
    is_deleted: bool
    phase: str
    ip: str
    status: Mapping[str, Any]

    @staticmethod
    def parse(said: object) -> Pod:
        """Return the Pod of a JSON object. Whatever is missing, or has the wrong type, is empty."""
        whole = _mapping(said)
        metadata, status = _mapping(whole.get("metadata")), _mapping(whole.get("status"))
        return Pod(
            _text(metadata.get("name")),
            _text(metadata.get("uid")),
            _text(metadata.get("resourceVersion")),
            _text(_mapping(whole.get("spec")).get("nodeName")),
            _texts(metadata.get("labels")),
            _texts(metadata.get("annotations")),
            _text(metadata.get("creationTimestamp")),
            bool(metadata.get("deletionTimestamp")),
            _text(status.get("phase")) or "Pending",
            _text(status.get("podIP")),
            status,
        )

    @property
    def is_scheduled(self) -> bool:
        """Return True if the Pod has a node."""
        return bool(self.node)

    @property
    def has_ended(self) -> bool:
        """Return True if its containers have ended, and do not start again."""
        return self.phase in ("Succeeded", "Failed")

    @property
    def is_disrupted(self) -> bool:
        """Return True if the cluster has announced that it ends the Pod."""
        return self.condition("DisruptionTarget").get("status") == "True"

    def condition(self, kind: str) -> Mapping[str, Any]:
        """Return a condition of the Pod; an empty mapping if it has none of this kind."""
        for condition in _mappings(self.status.get("conditions")):
            if condition.get("type") == kind:
                return condition
        return {}

    def containers(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield name and state of each container, in the order of their starts."""
        for group in ("initContainerStatuses", "containerStatuses"):
            for container in _mappings(self.status.get(group)):
                yield _text(container.get("name")), _mapping(container.get("state"))

    def standing(self) -> str:
        """Return how the Pod stands, for people who wait for it."""
        if not self.is_scheduled:
            condition = self.condition("PodScheduled")
            reason, message = _text(condition.get("reason")), one_line(_text(condition.get("message")))
            why = f" ({reason})" if reason else ""
            return f"Pod {self.name} is {self.phase}{why}{f': {message}' if message else ''}"
        waits = [f"{name} waits ({reason})" for name, reason, _ in self._waiting() if reason]
        doing = f": {', '.join(waits)}" if waits else ""
        return f"Pod {self.name} is {self.phase} on {self.node}{doing}"

    def failure(self) -> PodFailure | None:
        """Return why the Pod's runner will not come; None if it may still come."""
        if self.is_deleted or self.has_ended:
            return PodFailure(f"Pod {self.name} {self.end()}", self._phase_of_end(), self.output())
        for name, reason, message in self._waiting():
            advice = WAITING_FAILURES.get(reason)
            if advice is None or not self._is_hopeless(reason, message):
                continue
            text = f"Pod {self.name} cannot start its container {name} ({reason}): {message or 'no reason is given'}"
            return PodFailure(f"{text}. {advice}", "start", final=True)
        return None

    def _is_hopeless(self, reason: str, message: str) -> bool:
        """Return True if the kubelet's next attempts fail as well."""
        if reason in ("ErrImagePull", "ImagePullBackOff"):
            return any(word in message.lower() for word in HOPELESS_PULLS)
        # The runner's own Secret has the Pod's name. It is created right after the Pod, and may come a moment late.
        return not (reason == "CreateContainerConfigError" and f'secret "{self.name}" not found' in message)

    def _waiting(self) -> Iterator[tuple[str, str, str]]:
        for name, state in self.containers():
            waiting = _mapping(state.get("waiting"))
            if waiting:
                yield name, _text(waiting.get("reason")), one_line(_text(waiting.get("message")))

    def _phase_of_end(self) -> str:
        if not self.is_scheduled:
            return "queue"
        return "connect" if self.exit_code() is not None else "start"

    def end(self) -> str:
        """Return how the Pod has ended, or is about to end, as the end of a sentence about it."""
        reason, message = _text(self.status.get("reason")), one_line(_text(self.status.get("message")))
        if self.is_disrupted and reason not in POD_REASONS:
            disruption = self.condition("DisruptionTarget")
            reason, message = _text(disruption.get("reason")), one_line(_text(disruption.get("message")))
            return f"{DISRUPTIONS.get(reason, f'was disrupted ({reason})')}{f' ({message})' if message else ''}"
        if reason:
            return f"{POD_REASONS.get(reason, f'ended as {reason}')}{f' ({message})' if message else ''}"
        for name, ending in self._terminated():
            return f"ended on {self.node}: its container {name} {describe_exit(ending)}"
        if self.is_deleted:
            return "was deleted, not by its pool: kubectl get events tells more"
        return f"is {self.phase}"

    def _terminated(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield the containers that have ended. A container that needs a person's attention comes first."""
        ended = [(name, _mapping(state.get("terminated"))) for name, state in self.containers()]
        ended = [(name, ending) for name, ending in ended if ending]
        # An init container that has done its work does not matter.
        yield from sorted(
            (one for one in ended if one[0] == CONTAINER or one[1].get("exitCode") != 0),
            key=lambda one: one[1].get("reason") != "OOMKilled",
        )

    def exit_code(self) -> int | None:
        """Return the exit code of the runner's container; None if it has not ended."""
        for name, ending in self._terminated():
            code = ending.get("exitCode")
            if name == CONTAINER and isinstance(code, int):
                return code
        return None

    def output(self) -> str:
        """Return the end of what the container has written, if it has failed."""
        return next((said for _, ending in self._terminated() if (said := _text(ending.get("message")).strip())), "")


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _mappings(value: object) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _texts(value: object) -> Mapping[str, str]:
    return {name: one for name, one in _mapping(value).items() if isinstance(one, str)}
