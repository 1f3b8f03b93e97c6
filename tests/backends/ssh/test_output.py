"""What calls on hosts print, here."""

from __future__ import annotations

import pytest

from tests.backends.ssh.conftest import Make, MakeBackend
from tests.support.helpers import PATIENCE
from tests.support.sshd.host import Host


def speak(word: str) -> int:
    """Prints by every way that there is."""
    import os
    import subprocess
    import sys

    print(f"{word} printed")
    print(f"{word} complained", file=sys.stderr)
    os.write(1, f"{word} written\n".encode())
    subprocess.run(["sh", "-c", f"echo {word} by a child"], check=True)
    return len(word)


def test_it_appears_as_if_it_had_been_printed_here(
    host: Host, make_backend: MakeBackend, make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    executor = make(make_backend(host))
    assert executor.submit(speak, "was").result(PATIENCE) == 3
    executor.shutdown()
    out, err = capsys.readouterr()
    assert out.splitlines() == ["was printed", "was written", "was by a child"]
    assert "was complained\n" in err


def test_each_call_has_its_own_where_it_is_captured(host: Host, make_backend: MakeBackend, make: Make) -> None:
    executor = make(make_backend(host), output="capture")
    futures = {word: executor.submit(speak, word) for word in ("one", "two", "three")}
    for word, future in futures.items():
        future.result(PATIENCE)
        assert sorted(future.output().splitlines()) == sorted(
            [f"{word} printed", f"{word} complained", f"{word} written", f"{word} by a child"]
        )


def test_lines_are_tagged_where_that_is_asked_for(
    host: Host, make_backend: MakeBackend, make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    executor = make(make_backend(host), output="tag")
    executor.submit(speak, "is").result(PATIENCE)
    executor.shutdown()
    assert "[runner 1, call 1] is by a child\n" in capsys.readouterr().out
