"""What the API server answers. No HTTP here, and no processes: those are the nodes'."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any, NamedTuple

from tests.support.kubernetes_simulator import schemas, statuses
from tests.support.kubernetes_simulator.accounts import Account, Right
from tests.support.kubernetes_simulator.statuses import StatusError
from tests.support.kubernetes_simulator.store import Key, Store, StoredEvent, now
from tests.support.kubernetes_simulator.validation import check_metadata, check_pod, check_secret
from tests.support.kubernetes_simulator.watching import WatchHub

Json = dict[str, Any]
KINDS = {"pods": "Pod", "secrets": "Secret"}
GROUPS = {"selfsubjectaccessreviews": "authorization.k8s.io"}
QUERIES = {
    "create": {"fieldValidation", "dryRun", "fieldManager", "pretty"},
    "get": {"pretty"},
    "delete": {"pretty"},
    "list": {"labelSelector", "resourceVersion", "timeoutSeconds", "pretty"},
    "watch": {
        "labelSelector", "resourceVersion", "watch", "allowWatchBookmarks", "timeoutSeconds", "pretty",
    },
}  # fmt: skip
"""The query parameters that are known here. A real server ignores others silently."""


class ApiRequest(NamedTuple):
    """A request to the API server.

    Attributes:
        verb: as rights have it.
        resource, namespace, name: of the object.
        query: of the URL.
        body: parsed; None for no body.
        account: who asks.
    """

    verb: str
    resource: str
    namespace: str
    name: str
    query: dict[str, str]
    body: Any
    account: Account

    @property
    def action(self) -> str:
        return f"{self.verb} {self.resource}"

    @property
    def right(self) -> Right:
        return Right(self.verb, self.resource, GROUPS.get(self.resource, ""))


class ApiServer:
    """The API server.

    Args:
        store: the objects.
        hub: the watches.
        delete: carries out the deletion of a Pod, with the seconds of grace.

    Attributes:
        namespaces: those that exist.
        quota: by namespace, the number of Pods that may exist.
        violations: what did not fit the schemas, in words.
        gone_as_status: whether a watch from a version that is too old is answered with status 410, and not with an
            event ERROR in a stream; servers have done both.
    """

    def __init__(self, store: Store, hub: WatchHub, delete: Callable[[Key, float], None]) -> None:
        self._store = store
        self._hub = hub
        self._delete = delete
        self.namespaces: set[str] = set()
        self.quota: dict[str, int] = {}
        self.violations: list[str] = []
        self.gone_as_status = False

    def answer(self, request: ApiRequest) -> tuple[int, Json]:
        """Answer a request that is no watch.

        Raises:
            StatusError: the answer is no success.
        """
        self._admit(request)
        match request.verb, request.resource:
            case "create", "selfsubjectaccessreviews":
                status, body = self._review(request)
            case "create", _:
                status, body = self._create(request)
            case "get", _:
                status, body = 200, self._whole(request, self._store.get(self._key(request)))
            case "list", _:
                status, body = self._list(request)
            case "delete", "pods":
                status, body = self._delete_pod(request)
            case _:
                raise StatusError(405, "MethodNotAllowed", "the server does not allow this method on the resource")
        self._check(body, f"answer to {request.action}")
        return status, body

    def watch(self, request: ApiRequest) -> AsyncIterator[bytes]:
        """The lines of a watch.

        Raises:
            StatusError: the answer is no success.
        """
        self._admit(request)
        version = int(request.query.get("resourceVersion") or "0")
        if version > self._store.version:
            text = f"Too large resource version: {version}, current: {self._store.version}"
            raise StatusError(504, "Timeout", text, retry_after=1)
        too_old = 0 < version < self._store.floor
        if too_old and self.gone_as_status:
            raise statuses.expired(version, self._store.floor)
        return self._lines(request, version, too_old)

    async def _lines(self, request: ApiRequest, version: int, too_old: bool) -> AsyncIterator[bytes]:
        if too_old:
            yield self._event("ERROR", statuses.expired(version, self._store.floor).body())
            return
        bookmarks = request.query.get("allowWatchBookmarks") in ("1", "true")
        seconds = float(request.query.get("timeoutSeconds") or 3600)
        if version == 0:
            # Any version may be shown first; then all objects come as ADDED.
            version = self._store.version
            for found in self._selected(request):
                yield self._event("ADDED", found)
        async for event in self._hub.events(version, seconds, bookmarks=bookmarks):
            if isinstance(event, StatusError):
                yield self._event("ERROR", event.body())
                return
            if isinstance(event, int):
                marked = {"resourceVersion": str(event), "creationTimestamp": None}
                body = {"kind": "Pod", "apiVersion": "v1", "metadata": marked, "spec": {"containers": None}}
                yield self._event("BOOKMARK", body)
            elif event.key[:2] == (request.resource, request.namespace) and _matches(event, request):
                yield self._event(event.kind, self._whole(request, event.object))

    def _event(self, kind: str, about: Json) -> bytes:
        event = {"type": kind, "object": about}
        if kind != "BOOKMARK":
            self._check(about, f"event {kind}")
        self.violations += [f"event: {what}" for _, what in schemas.faults_of(event, "v1", "WatchEvent")]
        return json.dumps(event).encode() + b"\n"

    # -- steps ---------------------------------------------------------------------------------------------------------

    def _admit(self, request: ApiRequest) -> None:
        unknown = set(request.query) - QUERIES[request.verb]
        if unknown:
            self.violations.append(f"{request.action}: unknown query parameters {sorted(unknown)}")
        # Everyone who is known may ask what he may do.
        if request.resource not in GROUPS:
            if not request.account.may(request.right, request.namespace):
                who = request.account.name
                raise statuses.forbidden(who, request.verb, request.resource, request.right.group, request.namespace)
            request.account.used.add(request.right)

    def _key(self, request: ApiRequest) -> Key:
        return request.resource, request.namespace, request.name

    def _create(self, request: ApiRequest) -> tuple[int, Json]:
        kind, body = KINDS[request.resource], request.body
        self._decode(request, body, "v1", kind)
        if request.namespace not in self.namespaces:
            raise statuses.not_found("namespaces", request.namespace)
        if body["metadata"].get("namespace", request.namespace) != request.namespace:
            raise statuses.bad_request("the namespace of the provided object does not match the namespace of the path")
        check_metadata(kind, body["metadata"])
        if request.resource == "pods":
            check_pod(body)
            self._take_quota(request)
        else:
            check_secret(body)
        made = {**body, **({"status": {"phase": "Pending", "qosClass": "Burstable"}} if kind == "Pod" else {})}
        key = (request.resource, request.namespace, body["metadata"]["name"])
        return 201, self._whole(request, self._store.add(key, made))

    def _take_quota(self, request: ApiRequest) -> None:
        limit = self.quota.get(request.namespace)
        used = len(self._store.find("pods", request.namespace))
        if limit is not None and used >= limit:
            name = request.body["metadata"]["name"]
            text = f'pods "{name}" is forbidden: exceeded quota: compute, requested: pods=1, used: pods={used}, '
            raise StatusError(403, "Forbidden", f"{text}limited: pods={limit}")

    def _decode(self, request: ApiRequest, body: Any, api_version: str, kind: str) -> None:
        """Refuse a body as the strict decoder does, and note what is wrong with it."""
        found = list(schemas.faults_of(body, api_version, kind))
        if not found:
            return
        self.violations += [f"{request.action}: {what}" for _, what in found]
        if request.query.get("fieldValidation") == "Strict" or any(sort == "wrong" for sort, _ in found):
            what = ", ".join(what for _, what in found)
            text = f'{kind} in version "{api_version}" cannot be handled as a {kind}: strict decoding error: {what}'
            raise statuses.bad_request(text)

    def _list(self, request: ApiRequest) -> tuple[int, Json]:
        items = self._selected(request)
        for item in items:
            # Items of a list do not say what they are.
            del item["kind"], item["apiVersion"]
        metadata = {"resourceVersion": str(self._store.version)}
        return 200, {"kind": "PodList", "apiVersion": "v1", "metadata": metadata, "items": items}

    def _selected(self, request: ApiRequest) -> list[Json]:
        wanted = _selector(request)
        found = [self._whole(request, one) for one in self._store.find(request.resource, request.namespace)]
        return [one for one in found if wanted.items() <= (one["metadata"].get("labels") or {}).items()]

    def _delete_pod(self, request: ApiRequest) -> tuple[int, Json]:
        options = request.body or {}
        self._decode(request, {"kind": "DeleteOptions", "apiVersion": "v1", **options}, "v1", "DeleteOptions")
        key = self._key(request)
        pod = self._store.get(key)
        wanted = (options.get("preconditions") or {}).get("uid")
        if wanted is not None and wanted != pod["metadata"]["uid"]:
            why = f"Precondition failed: UID in precondition: {wanted}, UID in object meta: {pod['metadata']['uid']}"
            raise statuses.conflict("Pod", request.name, why)
        grace = options.get("gracePeriodSeconds")
        self._delete(key, pod["spec"].get("terminationGracePeriodSeconds", 30) if grace is None else grace)
        with suppress(StatusError):
            pod = self._store.get(key)
        return 200, self._whole(request, pod)

    def _review(self, request: ApiRequest) -> tuple[int, Json]:
        self._decode(request, request.body, "authorization.k8s.io/v1", "SelfSubjectAccessReview")
        asked = request.body["spec"]["resourceAttributes"]
        right = Right(asked["verb"], asked["resource"], asked.get("group", ""))
        allowed = request.account.may(right, asked.get("namespace", ""))
        status = {"allowed": allowed, **({} if allowed else {"reason": "no RBAC policy matched"})}
        return 201, {**request.body, "metadata": {"creationTimestamp": None}, "status": status}

    def _whole(self, request: ApiRequest, stored: Json) -> Json:
        return {"kind": KINDS[request.resource], "apiVersion": "v1", **stored}

    def _check(self, body: Json, what: str) -> None:
        found = schemas.faults_of(body, body["apiVersion"], body["kind"])
        self.violations += [f"{what}: {fault}" for _, fault in found]


def mark_deleted(pod: Json, grace: float) -> None:
    """Write into a Pod that its deletion was asked for. A later request can only shorten the grace."""
    metadata = pod["metadata"]
    before = metadata.get("deletionGracePeriodSeconds")
    if before is None or grace < before:
        metadata |= {"deletionGracePeriodSeconds": int(grace), "deletionTimestamp": now(grace)}


def _selector(request: ApiRequest) -> dict[str, str]:
    text = request.query.get("labelSelector", "")
    return dict(part.split("=", 1) for part in text.split(",") if part)


def _matches(event: StoredEvent, request: ApiRequest) -> bool:
    return _selector(request).items() <= (event.object["metadata"].get("labels") or {}).items()
