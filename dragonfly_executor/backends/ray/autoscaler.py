"""The words about what Ray's autoscaler does for actors that wait. The driver asks Ray for them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

STATUS = b"__autoscaling_status"
"""Key under which the first autoscaler writes its report, for ``ray status``."""
MAX_DETAILS = 200
"""Characters of the reason for which a node could not be started."""


def autoscaler_status() -> str:
    """Return what the autoscaler does, for people to read; "" if it does nothing, or there is none.

    Raises:
        Exception: Ray is gone, or has another API.
    """
    import ray
    from ray.experimental.internal_kv import _internal_kv_get

    written = _internal_kv_get(STATUS)
    report = json.loads(written).get("autoscaler_report") if written else None
    if report is not None:
        return "; ".join(words_of_report(report))
    from ray.autoscaler.v2.sdk import get_cluster_status

    return "; ".join(words_of_status(get_cluster_status(ray.get_runtime_context().gcs_address)))


def words_of_report(report: dict[str, Any]) -> Iterator[str]:
    """Yield what the first autoscaler reports.

    Args:
        report: nodes that it launches, by type; nodes that start, as (address, type, state); why types are missing.
    """
    parts = [f"{count} of type {name}" for name, count in (report.get("pending_launches") or {}).items()]
    parts += [f"{name} at {address} ({state})" for address, name, state in report.get("pending_nodes") or ()]
    yield from _starts(parts)
    summary = (report.get("node_availability_summary") or {}).get("node_availabilities") or {}
    for name, record in summary.items():
        if not record.get("is_available", True):
            why = record.get("unavailable_node_information") or {}
            yield _failed(name, f"{why.get('category', '')}: {why.get('description', '')}")


def words_of_status(status: Any) -> Iterator[str]:
    """Yield what the second autoscaler reports.

    Args:
        status: a `ClusterStatus` of Ray.
    """
    parts = [f"{launch.count} of type {launch.ray_node_type_name}" for launch in status.pending_launches]
    parts += [f"{node.ray_node_type_name} at {node.ip_address}" for node in status.pending_nodes]
    yield from _starts(parts)
    for launch in status.failed_launches[-1:]:
        yield _failed(launch.ray_node_type_name, str(launch.details))


def _starts(parts: list[str]) -> Iterator[str]:
    if parts:
        yield f"the autoscaler starts nodes: {', '.join(parts)}"


def _failed(name: str, why: str) -> str:
    return f"the autoscaler could not start a node of type {name} ({why[:MAX_DETAILS]})"
