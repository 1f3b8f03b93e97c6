"""Machines and all else as the JSON that the API answers with (reference 1.2, 1.4, 2)."""

from __future__ import annotations

from typing import Any

from tests.support.fly_simulator.regions import REGIONS
from tests.support.fly_simulator.state import App, Machine
from tests.support.fly_simulator.values import Event, Lease, rfc3339


def machine_body(machine: Machine, *, lease: Lease | None = None, summary: bool = False) -> dict[str, Any]:
    """A machine. `lease` is shown where it was asked for."""
    body: dict[str, Any] = {
        "id": machine.id,
        "name": machine.name,
        "state": machine.state,
        "region": machine.region,
        "instance_id": machine.instance_id,
        "private_ip": machine.private_ip,
        "created_at": rfc3339(machine.created_at),
        "updated_at": rfc3339(machine.updated_at),
        "image_ref": image_ref(machine.config["image"]),
    }
    if summary:
        return body
    # Where the host is not reached nobody knows the whole config (S, L).
    lost = machine.host_is_lost
    body["incomplete_config" if lost else "config"] = (
        {"image": machine.config["image"]} if lost else dict(machine.config)
    )
    body |= {
        "host_status": "unreachable" if lost else "ok",
        "events": events_body(machine.events),
        "checks": [],
        "cordoned": False,
    }
    if lease is not None:
        body["lease"] = {
            "owner": lease.owner, "description": lease.description, "expires_at": int(lease.expires_at),
        }  # fmt: skip
    return body


def org_machine_body(machine: Machine, *, summary: bool) -> dict[str, Any]:
    """A machine in the list of an organization."""
    body: dict[str, Any] = {
        "id": machine.id,
        "app_name": machine.app,
        "name": machine.name,
        "state": machine.state,
        "region": machine.region,
        "private_ip": machine.private_ip,
        "version": machine.instance_id,
        "created_at": rfc3339(machine.created_at),
        "updated_at": rfc3339(machine.updated_at),
    }
    if not summary and not machine.host_is_lost:
        metadata = dict(machine.metadata)
        body["config"] = {"image": machine.config["image"], "metadata": metadata, "guest": machine.guest}
    return body


def image_ref(image: str) -> dict[str, Any]:
    """registry/repository:tag@digest, taken apart."""
    rest, _, digest = image.partition("@")
    registry, _, path = rest.partition("/") if "." in rest.partition("/")[0] else ("docker-hub-mirror.fly.io", "", rest)
    repository, _, tag = path.partition(":")
    found = {"registry": registry, "repository": repository, "tag": tag or "latest", "digest": digest}
    return {key: value for key, value in found.items() if value}


def events_body(events: list[Event], limit: int | None = None) -> list[dict[str, Any]]:
    """Newest first."""
    return [
        {
            "id": event.id,
            "type": event.type,
            "status": event.status,
            "source": event.source,
            "timestamp": int(event.at * 1000),
            "request": event.request,
        }
        for event in reversed(events)
    ][:limit]


def lease_body(lease: Lease, machine: Machine) -> dict[str, Any]:
    """In the envelope of the documentation and fly-go; the OpenAPI document has it bare."""
    return {
        "status": "success",
        "data": {
            "nonce": lease.nonce,
            "expires_at": int(lease.expires_at),
            "owner": lease.owner,
            "description": lease.description,
            "version": machine.instance_id,
        },
    }


def app_body(app: App, machine_count: int) -> dict[str, Any]:
    """An app."""
    return {
        "id": f"app_{app.name}",
        "name": app.name,
        "status": "deployed",
        "machine_count": machine_count,
        "volume_count": 0,
        "network": "default",
        "organization": {"name": app.organization, "slug": app.organization},
    }


def regions_body(nearest: str) -> dict[str, Any]:
    """The platform's regions, keys as they are on the wire (S: GO)."""
    rows = [
        {
            "code": code,
            "name": name,
            "latitude": 0.0,
            "longitude": 0.0,
            "gateway_available": True,
            "requires_paid_plan": False,
            "geo_region": part,
            "capacity": 100,
        }
        for code, (name, part) in REGIONS.items()
    ]
    return {"Regions": rows, "Nearest": nearest}
