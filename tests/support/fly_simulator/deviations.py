"""What is known to be wrong or missing in Fly's OpenAPI document of 2026-08-20, put right in memory (reference 4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Json = dict[str, Any]

APPS = "/v1/apps/{app_name}"
LIST = APPS + "/machines"
MACHINE = APPS + "/machines/{machine_id}"


def correct(document: Json) -> None:
    """Apply all of them."""
    for _, change in DEVIATIONS:
        change(document["paths"], document["components"]["schemas"])


def _query(path: str, method: str, name: str, kind: str) -> Callable[[Json, Json], None]:
    def change(paths: Json, _schemas: Json) -> None:
        parameter = {"name": name, "in": "query", "schema": {"type": kind}}
        paths[path][method].setdefault("parameters", []).append(parameter)

    return change


def _status_code(_paths: Json, schemas: Json) -> None:
    schemas["main.statusCode"]["enum"].insert(2, "volume_placement_capacity")


def _image_required(_paths: Json, schemas: Json) -> None:
    schemas["CreateMachineRequest"]["required"] = ["config"]
    schemas["fly.MachineConfig"]["required"] = ["image"]


def _event_request(_paths: Json, schemas: Json) -> None:
    schemas["MachineEvent"]["properties"]["request"] = {"type": ["object", "null"]}


def _containers_in_reply(_paths: Json, schemas: Json) -> None:
    schemas["Machine"]["properties"]["containers"] = {"type": "array", "items": {"type": "object"}}


def _lease_envelope(paths: Json, schemas: Json) -> None:
    schemas["simulator.LeaseEnvelope"] = {
        "type": "object",
        "required": ["status", "data"],
        "properties": {"status": {"type": "string"}, "data": {"$ref": "#/components/schemas/Lease"}},
    }
    lease = paths[MACHINE + "/lease"]
    made = lease["post"]["responses"]["201"]
    shown = lease["get"]["responses"]["200"]
    for response in (made, shown):
        schema = {"$ref": "#/components/schemas/simulator.LeaseEnvelope"}
        response["content"]["application/json"]["schema"] = schema
    lease["post"]["responses"]["200"] = made


def _signal_number(_paths: Json, schemas: Json) -> None:
    signal = schemas["SignalRequest"]["properties"]["signal"]
    schemas["SignalRequest"]["properties"]["signal"] = {"anyOf": [signal, {"type": "integer"}]}


def _null_removes(_paths: Json, schemas: Json) -> None:
    values = {"type": ["string", "null"]}
    schemas["updateMetadataRequest"]["properties"]["metadata"]["additionalProperties"] = values


def _stop_timeout(_paths: Json, schemas: Json) -> None:
    schemas["fly.StopConfig"]["properties"]["timeout"]["type"] = ["string", "integer"]


def _region_keys(_paths: Json, schemas: Json) -> None:
    row = schemas["main.regionRow"]["properties"]
    row["capacity"] = {"type": "integer"}
    answer = schemas["main.regionResponse"]["properties"]
    answer |= {"Regions": answer.pop("regions"), "Nearest": answer.pop("nearest")}
    schemas["main.regionResponse"]["required"] = ["Regions"]


def _placement_keys(_paths: Json, schemas: Json) -> None:
    row = schemas["placement.RegionPlacement"]
    row["properties"] = {key.capitalize(): value for key, value in row["properties"].items()}
    answer = schemas["main.getPlacementsResponse"]["properties"]
    answer["Regions"] = answer.pop("regions")


DEVIATIONS: tuple[tuple[str, Callable[[Json, Json], None]], ...] = (
    ("list: metadata.{key} is missing (a newer copy has it)", _query(LIST, "get", "metadata.{key}", "string")),
    ("error status: volume_placement_capacity is missing (a newer copy has it)", _status_code),
    ("create: config and its image are required, nothing is said to be", _image_required),
    ("events: request is null on launch and destroy (L)", _event_request),
    ("machine: containers is in replies, not in the document", _containers_in_reply),
    ("lease: bare in the document, in an envelope in the documentation and fly-go; 200 too", _lease_envelope),
    ("lease: fly-go sends ttl as a query parameter", _query(MACHINE + "/lease", "post", "ttl", "integer")),
    ("destroy: fly-go sends kill", _query(MACHINE, "delete", "kill", "boolean")),
    ("signal: fly-go sends the number", _signal_number),
    ("metadata: null removes a key", _null_removes),
    ("stop_config.timeout: nanoseconds are taken as well (D, S)", _stop_timeout),
    ("regions: keys are capitalised on the wire, capacity is missing", _region_keys),
    ("regions: size is missing", _query("/v1/platform/regions", "get", "size", "string")),
    ("placements: keys are capitalised on the wire", _placement_keys),
)
"""Each with its reason."""
