"""Pages that are made from other files: the README, the project's documents, the examples, the API reference.

MkDocs calls the functions whose names begin with ``on_``. Links of a page are those of the repository, as GitHub
follows them. So a link to a file outside of docs/ is changed to the page that is made from that file.
"""

from __future__ import annotations

import base64
import json
import posixpath
import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
BLOCKS = runpy.run_path(str(ROOT / "docs" / "site" / "blocks.py"))
EXAMPLES: dict[str, str] = BLOCKS["examples"](ROOT / "docs" / "site" / "api_examples.md")
PROJECT = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "project/architecture.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "CHANGELOG.md": "project/changelog.md",
    "SECURITY.md": "project/security-policy.md",
    "examples/README.md": "examples/index.md",
    "LICENSE": "project/license.md",
    "examples/media/CREDITS": "project/credits.md",
}
"""Files outside of docs/, and the page that is made from each."""
API = {
    "Executors and pools": ("dragonfly_executor", ["DragonflyExecutor", "Pool", "call", "cast", "configure", "pools"]),
    "Calls": (
        "dragonfly_executor",
        [
            "CallOptions", "Future", "CallStream", "PlacedWorker", "PlacedProcess", "ProcessResult", "Remote",
            "RemoteObject", "CallProgress", "OutputLine", "SharedObject", "progress",
        ],
    ),
    "In a runner": ("dragonfly_executor", ["Parent", "on_drain", "freeze_support"]),
    "Backends": (
        "dragonfly_executor",
        [
            "LocalBackend", "SSHBackend", "SSHHost", "FlyBackend", "SlurmBackend", "KubernetesBackend", "EC2Backend",
            "DockerBackend", "DaskBackend", "RayBackend", "Budget", "Capacity",
        ],
    ),
    "Write a backend": ("dragonfly_executor", ["Backend", "BootRequest", "Node"]),
    "Errors": (
        "dragonfly_executor",
        [
            "DragonflyError", "CallSerializationError", "SharedObjectError", "CallDeserializationError",
            "ResultSerializationError", "ResultDeserializationError", "MultiprocessingObjectError",
            "FrameTooLargeError", "RemoteCallError", "ProtocolError", "CallTimeoutError", "RunnerLostError",
            "PoisonCallError", "WorkerLostError", "BootError", "BootTimeoutError", "HostKeyError", "RunnerAuthError",
            "VersionMismatchError", "PoolBrokenError", "InitializerError", "BudgetExceeded", "QueueFullError",
            "StartError", "RequirementsError", "ForkedExecutorError", "NestingError",
        ],
    ),
    "Testing": (
        "dragonfly_executor.testing",
        ["FakeBackend", "FakeNode", "FakeRunner", "VirtualClock", "BackendContract"],
    ),
    "multiprocessing": ("dragonfly_executor.multiprocessing", ["Pool", "AsyncResult", "get_context"]),
}  # fmt: skip
"""The pages of the API reference: from which module the names of each page are."""
MORE = {
    "Statistics": ("dragonfly_executor.core.stats", ["PoolStats", "RunnerStats", "TierStats"]),
    "Observers": (
        "dragonfly_executor.integrations",
        ["prometheus.PrometheusMetrics", "opentelemetry.OpenTelemetryTracing"],
    ),
}
"""Further pages of the reference: of classes that other names return, or that need an extra."""
INTERNAL = {
    "CallOptions": ["KIND", "OPTIONS", "change", "limits"],
    "Future": [
        "add_waiter", "call", "cancel_linked", "cancels_running", "captured", "hand_over", "has_value", "on_progress",
        "progressed", "remove_waiter", "set_exception", "set_result", "set_running_or_notify_cancel", "settle",
        "waker_of",
    ],
    "Parent": ["decode", "encode", "new", "of_process"],
    "Pool": [
        "begin", "calls_of_map", "calls_taken_by", "check_blocks_no_loop", "check_open", "described", "failed",
        "group_ended", "group_fed", "html", "leave", "open_stream", "place_process_with", "place_with", "share_object",
        "start", "submit_in_task",
        "submit_with", "unlink", "unnamed",
    ],
    "PlacedWorker": ["submit_call"],
    "SharedObject": ["content_for"],
}  # fmt: skip
"""Members without an underscore that other parts of the package use, and that users do not."""
NOT_MADE_BY_USERS = [
    "AsyncResult", "BootRequest", "CallProgress", "CallStream", "FakeNode", "Future", "OutputLine", "Parent",
    "PlacedProcess", "PlacedWorker", "ProcessResult", "RemoteObject", "SharedObject",
]  # fmt: skip
"""Classes whose constructors are for the package alone."""
LINK = re.compile(r"(\]\()(?!https?:|mailto:|#)([^)#\s]+)((?:#[^)\s]*)?\))")
FETCHED = re.compile(r'<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)="(?:https?:)?//[^>]*>')
FENCE = re.compile(r"^(```.*?^```$)", re.MULTILINE | re.DOTALL)
NOT_IN_AN_ANCHOR = re.compile(r"[^\w\- ]")


def api_page(title: str) -> str:
    return f"api/{title.lower().replace(' ', '-')}.md"


def entry_options(title: str, name: str) -> str:
    """Return the options of an entry of the reference. The methods of a backend are for pools, so they are left out."""
    options = ["members: false"] if title == "Backends" else []
    if title == "Errors":
        options.append("show_bases: true")
    if title == "Testing":
        options.append("inherited_members: false")
    if name in NOT_MADE_BY_USERS:
        options.append("merge_init_into_class: false")
    if name in INTERNAL:
        options.append(f"filters: ['!^_', '!^({'|'.join(INTERNAL[name])})$']")
    return "".join(["\n    options:", *(f"\n      {option}" for option in options)]) if options else ""


def api_pages() -> Iterator[tuple[str, str, str]]:
    """Yield title, path and text of each page of the API reference."""
    for title, (module, names) in API.items():
        entries = "\n\n".join(f"::: {module}.{name}{entry_options(title, name)}" for name in names)
        example = f"```python\n{EXAMPLES[title]}```\n\n" if title in EXAMPLES else ""
        yield title, api_page(title), f"# {title}\n\nImport these names from `{module}`.\n\n{example}{entries}\n"

    for title, (module, names) in MORE.items():
        entries = "\n\n".join(f"::: {module}.{name}" for name in names)
        yield title, api_page(title), f"# {title}\n\n{entries}\n"


def command_help(*arguments: str) -> str:
    """Return the help that the program `dragonfly` prints."""
    from contextlib import redirect_stdout
    from io import StringIO
    from os import environ

    sys.path.insert(0, str(ROOT))
    from dragonfly_executor.cli.main import main

    environ["COLUMNS"] = "100"
    said = StringIO()
    with redirect_stdout(said):
        try:
            main([*arguments, "--help"])
        except SystemExit as end:
            if end.code:
                raise
    return said.getvalue()


def command_page() -> str:
    """Return the page of the command line: the help of the program and of each command, as it prints them."""
    overview = command_help()
    parts = [
        "# The command line\n\n`python -m dragonfly_executor` is the same program as `dragonfly`.",
        f"```text\n{overview}```",
    ]
    commands = re.findall(r"^    ([a-z]+)\b", overview.partition("COMMAND\n")[2], re.MULTILINE)
    parts += [f"## dragonfly {command}\n\n```text\n{command_help(command)}```" for command in commands]
    return "\n\n".join(parts) + "\n"


def notebook(path: Path) -> tuple[str, dict[str, bytes]]:
    """Return the cells of a notebook and their stored outputs as Markdown, and its pictures by their names."""
    parts, pictures = [], {}
    for cell in json.loads(path.read_text())["cells"]:
        source = "".join(cell["source"])
        parts.append(f"```python\n{source}\n```" if cell["cell_type"] == "code" else re.sub("^#", "##", source))
        for output in cell.get("outputs", ()):
            if "text" in output:
                parts.append(f"```text\n{''.join(output['text'])}```")
            elif "image/png" in output.get("data", {}):
                name = f"{path.stem}-{len(pictures) + 1}.png"
                pictures[name] = base64.b64decode(output["data"]["image/png"])
                parts.append(f"![The picture that this cell makes]({name})")
    return "\n\n".join(parts), pictures


def example_pages() -> Iterator[tuple[str, str, str, list[str]]]:
    """Yield title, path, text and sources of the page of each example. Files of a folder share one page."""
    groups: dict[str, list[Path]] = {}
    for path in sorted((ROOT / "examples").rglob("*")):
        if path.suffix in (".py", ".toml", ".ipynb") or path.name == "Dockerfile":
            folder = path.parent.name
            groups.setdefault(path.stem if folder in ("examples", "backends") else folder, []).append(path)
    for name, paths in groups.items():
        parts = [f"# {name.replace('_', ' ')}"]
        sources = []
        for path in paths:
            source = str(path.relative_to(ROOT))
            language = {".py": "python", ".toml": "toml"}.get(path.suffix, "docker")
            text = path.read_text()
            shown = notebook(path)[0] if path.suffix == ".ipynb" else f"```{language}\n{text}```"
            parts.append(f"`{source}`\n\n{shown}")
            sources += [source, posixpath.dirname(source)]
        output = ROOT / "docs" / "outputs" / f"{name}.txt"
        if output.exists():
            parts.append(f"It prints, for example:\n\n```text\n{output.read_text()}```")
        if name == "transcode":
            parts.insert(1, "![A terminal with this example](../picture.svg)")
        yield name.replace("_", " "), f"examples/{name}.md", "\n\n".join(parts) + "\n", sources


def document(path: Path) -> str:
    """Return the text of a document of the project as Markdown."""
    text = path.read_text()
    return text if path.suffix == ".md" else f"# {path.name.capitalize()}\n\n```text\n{text}```\n"


def page_of(source: str) -> str | None:
    """Return the page that shows a file or folder of the repository; None if there is none."""
    if source in PROJECT:
        return PROJECT[source]
    for _, path, _, sources in example_pages():
        if source in sources and source != "examples":
            return path
    return source.removeprefix("docs/") if source.startswith("docs/") else None


def source_of(page: str) -> str:
    """Return the file of the repository that a page is made from."""
    return next((source for source, made in PROJECT.items() if made == page), f"docs/{page}")


def with_links_of_the_site(text: str, page: str) -> str:
    """Change the links of a page that lead out of docs/, or that come from there."""
    folder = posixpath.dirname(source_of(page))

    def changed(link: re.Match[str]) -> str:
        target = page_of(posixpath.normpath(posixpath.join(folder, link[2])))
        if target is None:
            return link[0]
        return f"{link[1]}{posixpath.relpath(target, posixpath.dirname(page) or '.')}{link[3]}"

    parts = FENCE.split(text)
    return "".join(part if part.startswith("```") else LINK.sub(changed, part) for part in parts)


def github_anchor(text: str, separator: str) -> str:
    """Return the anchor that GitHub gives a heading, so that one link works in both places."""
    return NOT_IN_AN_ANCHOR.sub("", text.lower()).replace(" ", separator)


def navigation(entries: list[Any]) -> list[Any]:
    """Replace the marks ``{api}``, ``{examples}`` and ``{project}`` by their pages."""
    made: dict[str, list[Any]] = {
        "api": [{title: path} for title, path, _ in api_pages()],
        "examples": ["examples/index.md", *({title: path} for title, path, _, _ in example_pages())],
        "project": [
            {Path(source).stem.capitalize(): page}
            for source, page in PROJECT.items()
            if page not in ("index.md", "examples/index.md")
        ]
        + [{"Decisions": sorted(f"decisions/{path.name}" for path in (ROOT / "docs" / "decisions").glob("*.md"))}],
    }

    def filled(entry: Any) -> Any:
        if isinstance(entry, dict) and len(entry) == 1:
            ((title, content),) = entry.items()
            if isinstance(content, str) and content.strip("{}") in made:
                return {title: made[content.strip("{}")]}
            if isinstance(content, list):
                return {title: [filled(each) for each in content]}
        return entry

    return [filled(entry) for entry in entries]


def on_config(config: Any) -> Any:
    config.nav = navigation(config.nav)
    config.mdx_configs["toc"]["slugify"] = github_anchor
    return config


def on_files(files: Any, config: Any) -> Any:
    from mkdocs.structure.files import File

    pages = {page: document(ROOT / source) for source, page in PROJECT.items()}
    pages["command-line.md"] = command_page()
    pages |= {path: text for _, path, text in api_pages()}
    pages |= {path: text for _, path, text, _ in example_pages()}
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    for notebook_path in (ROOT / "examples").glob("*.ipynb"):
        for name, picture in notebook(notebook_path)[1].items():
            files.append(File.generated(config, f"examples/{name}", content=picture))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    return with_links_of_the_site(markdown, page.file.src_uri)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Refuse a page that fetches something from elsewhere: a reader may be offline."""
    fetched = [found[0] for found in FETCHED.finditer(output) if 'rel="canonical"' not in found[0]]
    if fetched:
        raise ValueError(f"{page.file.src_uri} fetches {fetched}")
    return output
