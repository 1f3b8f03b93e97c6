"""An extension of griffe: signatures that exist only at run time, and links between docstrings.

mkdocstrings reads the source. `DragonflyExecutor`, `Pool` and `CallOptions` take their options by ``**options``, and
make their ``__signature__`` from the sets of options. So this extension asks the class itself.
"""

from __future__ import annotations

import inspect
import re
import runpy
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import griffe

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import dragonfly_executor  # noqa: E402

BLOCKS = runpy.run_path(str(ROOT / "docs" / "site" / "blocks.py"))
EXAMPLES: dict[str, str] = BLOCKS["examples"](ROOT / "docs" / "site" / "api_examples.md")
MULTIPROCESSING = "dragonfly_executor.multiprocessing."

KINDS = {
    inspect.Parameter.POSITIONAL_ONLY: griffe.ParameterKind.positional_only,
    inspect.Parameter.POSITIONAL_OR_KEYWORD: griffe.ParameterKind.positional_or_keyword,
    inspect.Parameter.VAR_POSITIONAL: griffe.ParameterKind.var_positional,
    inspect.Parameter.KEYWORD_ONLY: griffe.ParameterKind.keyword_only,
    inspect.Parameter.VAR_KEYWORD: griffe.ParameterKind.var_keyword,
}
MENTION = re.compile(r"(?<![`\[])`(\w+)(\.\w+)?`(?!`)")
PAGE = re.compile(r"\bdocs/([\w-]+)\.md\b")


def with_example(text: str, path: str, name: str) -> str:
    """Add the example of a public name to its docstring."""
    shown = "multiprocessing.Pool" if path == f"{MULTIPROCESSING}pool.MultiprocessingPool" else name
    example = "\n".join(f"    {line}".rstrip() for line in EXAMPLES.get(shown, "").splitlines())
    return f"{text}\n\nExample:\n    ```python\n{example}\n    ```\n" if example else text


def linked(text: str, own_name: str) -> str:
    """Make links of the public names and of the pages that a docstring mentions."""

    def name(found: re.Match[str]) -> str:
        if found[1] not in dragonfly_executor.__all__ or found[1] == own_name:
            return found[0]
        return f"[{found[0]}][dragonfly_executor.{found[1]}]"

    return PAGE.sub(r"[\1](../\1.md)", MENTION.sub(name, text))


class Docstrings(griffe.Extension):
    """What this project's docstrings need beyond the source."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None and not obj.is_module:
            obj.docstring.value = linked(obj.docstring.value, obj.name)
            if obj.parent is not None and obj.parent.is_module:
                obj.docstring.value = with_example(obj.docstring.value, obj.path, obj.name)

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        if "__signature__" not in cls.members:
            return
        signature = inspect.signature(getattr(import_module(cls.module.path), cls.name))
        parameters = griffe.Parameters(
            *(
                griffe.Parameter(
                    each.name,
                    annotation=None if each.annotation is each.empty else str(each.annotation),
                    kind=KINDS[each.kind],
                    default=None if each.default is each.empty else repr(each.default),
                )
                for each in signature.parameters.values()
            )
        )
        function = griffe.Function("__init__", parameters=parameters, lineno=cls.lineno, endlineno=cls.lineno)
        cls.set_member("__init__", function)
