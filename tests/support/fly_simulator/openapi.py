"""Whether requests and success replies are what Fly's own description of its API says (reference 4)."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from tests.support.fly_simulator.calls import Call, Reply
from tests.support.fly_simulator.images import REPOSITORY

VARIABLE = "DRAGONFLY_FLY_OPENAPI"
USUAL_PLACE = REPOSITORY.parent / "shared" / "reference" / "fly-openapi.json"

Json = dict[str, Any]


def document_path() -> Path | None:
    """Where the document is; None if it is not here."""
    path = Path(os.environ.get(VARIABLE) or USUAL_PLACE)
    return path if path.is_file() else None


class OpenApi:
    """Checks, and keeps what it finds.

    Attributes:
        reason: why nothing is checked; None if it is.
        violations: what did not fit the document, in words.
    """

    def __init__(self) -> None:
        path = document_path()
        self.reason = (
            None if path else f"the OpenAPI document is not at {USUAL_PLACE}, and {VARIABLE} does not say where it is"
        )
        self._document = _document(path) if path else None
        self.violations: list[str] = []

    def check_request(self, call: Call) -> None:
        """Note whatever in it the document does not know."""
        if self._document is None:
            return
        self.violations += [f"{call.method} {call.template}: {what}" for what in self._document.of_request(call)]

    def check_reply(self, call: Call, reply: Reply) -> None:
        """Note whatever in a success reply the document does not know."""
        if self._document is None:
            return
        found = self._document.of_reply(call, reply)
        self.violations += [f"reply to {call.method} {call.template}: {what}" for what in found]


class Document:
    """The document, with what is known to be wrong in it put right."""

    def __init__(self, document: Json) -> None:
        from jsonschema import Draft4Validator

        from tests.support.fly_simulator.deviations import correct

        self._document = copy.deepcopy(document)
        correct(self._document)
        _forbid_unknown_fields(self._document["components"])
        self._validator = Draft4Validator
        self._validators: dict[int, Any] = {}

    def of_request(self, call: Call) -> Iterator[str]:
        """What is wrong with a request."""
        operation = self._document["paths"][call.template][call.method.lower()]
        queries = {each["name"]: each["schema"] for each in operation.get("parameters", ()) if each["in"] == "query"}
        for name, value in call.query:
            prefix, dot, _ = name.partition(".")
            known = f"{prefix}.{{key}}" if dot else name
            if known not in queries:
                yield f"unknown query parameter {name}"
            else:
                yield from _query_value(name, value, queries[known])
        body = operation.get("requestBody")
        if body is None:
            if call.raw:
                yield "a body where none is wanted"
        elif call.body is not None:
            yield from self._errors(body["content"]["application/json"]["schema"], call.body, "body")
        elif body.get("required"):
            yield "no body"

    def of_reply(self, call: Call, reply: Reply) -> Iterator[str]:
        """What is wrong with a success reply."""
        responses = self._document["paths"][call.template][call.method.lower()]["responses"]
        response = responses.get(str(reply.status))
        if response is None:
            yield f"status {reply.status} is not among {', '.join(responses)}"
            return
        content = response.get("content") or {}
        if "application/json" in content:
            yield from self._errors(content["application/json"]["schema"], reply.body, "body")

    def _errors(self, schema: Json, value: Any, what: str) -> Iterator[str]:
        validator = self._validators.get(id(schema))
        if validator is None:
            # References are looked up in the whole document.
            whole = {"components": self._document["components"], "allOf": [schema]}
            validator = self._validators[id(schema)] = self._validator(whole)
        for error in validator.iter_errors(value):
            place = "".join(f"[{part!r}]" for part in error.absolute_path)
            yield f"{what}{place}: {error.message}"


def _forbid_unknown_fields(node: Any) -> None:
    """The document allows whatever it does not name; a field with a slip in its name must not pass.

    A schema made of others (allOf) adds no field to them.
    """
    if isinstance(node, dict):
        if isinstance(node.get("properties"), dict) and node.get("type") == "object":
            node.setdefault("additionalProperties", False)
        for child in node.values():
            _forbid_unknown_fields(child)
    elif isinstance(node, list):
        for child in node:
            _forbid_unknown_fields(child)


def _query_value(name: str, value: str, schema: Json) -> Iterator[str]:
    kind = schema.get("type")
    if kind == "boolean" and value not in {"true", "false"}:
        yield f"query parameter {name} is {value!r}, not a boolean"
    if kind == "integer" and not value.isdigit():
        yield f"query parameter {name} is {value!r}, not an integer"
    if "enum" in schema and not set(value.split(",")) <= set(schema["enum"]):
        yield f"query parameter {name} is {value!r}, not among {schema['enum']}"


@cache
def _document(path: Path) -> Document:
    return Document(json.loads(path.read_bytes()))
