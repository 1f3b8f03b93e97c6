"""A client of basedpyright's language server, which completes names as an editor does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any


@contextmanager
def language_server(folder: Path) -> Iterator[LanguageServer]:
    """Yield a language server that works in a folder, which has the server's settings."""
    program = "from basedpyright.langserver import main; main()"
    command = (sys.executable, "-c", program, "--stdio")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=folder) as process:
        try:
            server = LanguageServer(folder, process)
            server.start()
            yield server
            server.stop()
        except BaseException:
            process.kill()
            raise


class LanguageServer:
    """A language server, as its client sees it."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._numbers = count(1)
        self._folder = folder

    def start(self) -> None:
        uri = self._folder.as_uri()
        folders = [{"uri": uri, "name": self._folder.name}]
        self._ask("initialize", processId=None, rootUri=uri, workspaceFolders=folders, capabilities={})
        self._tell("initialized")

    def stop(self) -> None:
        self._ask("shutdown")
        self._send(method="exit")

    def completions(self, text: str) -> set[str]:
        """Return the labels of the completions at the sign | in a program."""
        before, _, after = text.partition("|")
        number = next(self._numbers)
        uri = (self._folder / f"program_{number}.py").as_uri()
        document = {"uri": uri, "languageId": "python", "version": number, "text": before + after}
        self._tell("textDocument/didOpen", textDocument=document)
        lines = before.split("\n")
        position = {"line": len(lines) - 1, "character": len(lines[-1])}
        answer = self._ask("textDocument/completion", textDocument={"uri": uri}, position=position)
        self._tell("textDocument/didClose", textDocument={"uri": uri})
        return {item["label"] for item in answer["items"]}

    def _ask(self, method: str, **params: Any) -> Any:
        number = next(self._numbers)
        self._send(id=number, method=method, params=params)
        while True:
            message = self._receive()
            if "method" not in message and message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            if "method" in message and "id" in message:  # a request of the server's, such as for its settings
                asked = message["params"].get("items", []) if message["params"] else []
                self._send(id=message["id"], result=[None for _ in asked])

    def _tell(self, method: str, **params: Any) -> None:
        self._send(method=method, params=params)

    def _send(self, **message: Any) -> None:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        assert self._process.stdin
        self._process.stdin.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        self._process.stdin.flush()

    def _receive(self) -> Any:
        assert self._process.stdout
        length = 0
        while (line := self._process.stdout.readline()) != b"\r\n":
            assert line, "the language server has ended"
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        return json.loads(self._process.stdout.read(length))
