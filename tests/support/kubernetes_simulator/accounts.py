"""Who may do what: tokens, accounts, and the rules of their Roles."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Right(NamedTuple):
    """A verb on a kind of objects of an API group."""

    verb: str
    resource: str
    group: str = ""


@dataclass
class Account:
    """An account.

    Attributes:
        name: of the user.
        rights: what it may do, in each namespace of `namespaces`; None for everything.
        used: the rights that it has made use of.
    """

    name: str
    namespaces: frozenset[str]
    rights: frozenset[Right] | None = None
    used: set[Right] = field(default_factory=set)

    def may(self, right: Right, namespace: str) -> bool:
        """Whether it may do that there."""
        return self.rights is None or (namespace in self.namespaces and right in self.rights)


def rights_of(rules: Iterable[dict[str, Any]]) -> frozenset[Right]:
    """The rights of a Role's rules."""
    return frozenset(
        Right(verb, resource, group)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    )
