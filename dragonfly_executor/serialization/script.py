"""Describes a parent's ``__main__``: where its source is, and which names importing it binds."""

from __future__ import annotations

import os
import sys

from dragonfly_executor.util.lazy_typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ast
    from collections.abc import Iterator
    from types import ModuleType
    from typing import Any


def describe(module: ModuleType) -> dict[str, Any]:
    """Describe the script so that a slot can find it again.

    Returns:
        A dictionary with four keys. ``path`` is the file, or None. ``name`` is the argument of ``python -m``, or None;
        it is ``__main__`` for a directory or a zip file. ``entry`` is that directory or zip file, or None. ``package``
        is the module's ``__package__``.
    """
    spec: Any = getattr(module, "__spec__", None)
    path = getattr(module, "__file__", None)
    if path is not None and path.startswith("<"):
        path = None  # "<stdin>"
    if _at_a_prompt():
        spec = path = None
    name = getattr(spec, "name", None)
    entry = None
    if name == "__main__" and path is not None:
        entry = getattr(spec.loader, "archive", None) or os.path.dirname(os.path.abspath(path))
    return {
        "path": None if path is None else os.path.abspath(path),
        "name": name,
        "entry": entry,
        "package": getattr(module, "__package__", None),
    }


class Bindings:
    """The names that a script's top level binds.

    Attributes:
        imported: names that importing the script binds.
        guarded: names that only running it binds, in the block under its guard.
    """

    __slots__ = ("guarded", "imported")

    def __init__(self, imported: frozenset[str], guarded: frozenset[str]) -> None:
        self.imported = imported
        self.guarded = guarded - imported


def bindings(module: ModuleType) -> Bindings | None:
    """Return the names that importing the script binds, and the names that only running it binds.

    A script can be imported if all its actions, as opposed to its definitions, stand under ``if __name__ ==
    "__main__"``. If it has such a block, its author is trusted on this.

    Returns:
        The names; None if the script must not be imported.
    """
    source = _source(module)
    if source is None or b"__main__" not in source:
        return None
    import ast

    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return None
    guards: dict[int, tuple[list[Any], list[Any]]] = {}
    for statement in _statements(tree.body, ast):
        guard = _guard(statement, ast)
        if guard is not None:
            guards[id(statement)] = guard
    if not guards:
        return None
    skipped = [inner for guard in guards.values() for inner in guard[0]]
    imported = frozenset(_bound(tree.body, guards, module, ast))
    return Bindings(imported, frozenset(_bound(skipped, guards, module, ast)))


def _source(module: ModuleType) -> bytes | None:
    if _at_a_prompt():
        return None
    spec = getattr(module, "__spec__", None)
    path = getattr(module, "__file__", None)
    try:
        if spec is not None and spec.loader is not None:
            text = spec.loader.get_source(spec.name)
            return None if text is None else text.encode("utf-8", "surrogatepass")
        if path is None or path.endswith(".pyc"):
            return None
        with open(path, "rb") as file:
            return file.read()
    except (OSError, ImportError, AttributeError, UnicodeError):
        return None


def _at_a_prompt() -> bool:
    # At a prompt the names do not come from the file in __file__, if there is one. After python -i they do.
    return hasattr(sys, "ps1") and not sys.flags.interactive


def _statements(body: list[ast.stmt], tools: Any) -> Iterator[ast.stmt]:
    """Yield the statements that run when a module runs, those inside if, try, with and loops included."""
    for statement in body:
        yield statement
        if not isinstance(statement, (tools.FunctionDef, tools.AsyncFunctionDef, tools.ClassDef)):
            for field in ("body", "orelse", "finalbody", "handlers"):
                yield from _statements(getattr(statement, field, []), tools)


def _guard(statement: Any, tools: Any) -> tuple[list[Any], list[Any]] | None:
    """Return the statements under a guard that an import skips, and those that it runs; None if this is no guard."""
    if isinstance(statement, tools.If):
        tests: Any = statement.test
        skipped: list[Any] = statement.body
        run: list[Any] = statement.orelse
    elif isinstance(statement, tools.Expr) and isinstance(statement.value, (tools.BoolOp, tools.IfExp)):
        tests, skipped, run = statement.value, [], []  # __name__ == "__main__" and main()
    else:
        return None
    for node in tools.walk(tests):
        if isinstance(node, tools.Compare):
            sides = [node.left, *node.comparators]
            named = any(isinstance(side, tools.Name) and side.id == "__name__" for side in sides)
            if named and any(isinstance(side, tools.Constant) and side.value == "__main__" for side in sides):
                return (run, skipped) if isinstance(node.ops[0], tools.NotEq) else (skipped, run)
    return None


def _bound(body: list[Any], guards: dict[int, Any], module: ModuleType, tools: Any) -> Iterator[str]:
    """Yield every name that statements bind on import."""
    scopes = (tools.FunctionDef, tools.AsyncFunctionDef, tools.ClassDef)
    waiting = list(body)
    while waiting:
        node = waiting.pop()
        if id(node) in guards:
            waiting.extend(guards[id(node)][1])
        elif isinstance(node, scopes):
            yield node.name
        elif isinstance(node, (tools.Import, tools.ImportFrom)):
            for alias in node.names:
                name = alias.asname or alias.name.partition(".")[0]
                yield from _starred(node, module) if name == "*" else [name]
        elif isinstance(node, tools.Name) and isinstance(node.ctx, tools.Store):
            yield node.id
        elif isinstance(node, (tools.ExceptHandler, tools.MatchAs, tools.MatchStar)) and node.name:
            yield node.name
            waiting.extend(tools.iter_child_nodes(node))
        elif not isinstance(node, tools.Lambda):
            waiting.extend(tools.iter_child_nodes(node))


def _starred(node: Any, module: ModuleType) -> list[str]:
    parents = (module.__package__ or "").split(".")
    base = ".".join(parents[: len(parents) - node.level + 1]) if node.level else ""
    name = ".".join(filter(None, [base, node.module]))
    source = vars(sys.modules[name]) if name in sys.modules else {}
    return list(source.get("__all__") or (name for name in source if not name.startswith("_")))
