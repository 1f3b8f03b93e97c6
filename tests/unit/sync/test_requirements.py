"""Requirements are read and checked where they are given: no boot fails because of a slip of the pen."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from dragonfly_executor.backends.ssh.backend import SSHBackend
from dragonfly_executor.sync import Sync


def wanted(*lines: str) -> list[str]:
    return Sync(None, requirements=lines).requirements


@pytest.mark.parametrize(
    "line",
    [
        "numpy", "NumPy", "a.b-c_d", "numpy==1.26.4", "numpy >= 1.26, < 3", "numpy~=1.26", "numpy!=1.27", "numpy===odd",
        "numpy==1.*", "requests[socks,security]>=2", 'pywin32>=300; sys_platform == "win32"', "httpx (>=0.27)",
        'x; python_version < "3.12" and extra == "y"', "pip @ https://example.org/pip-24.zip#sha256=da", "x@https://h/x.whl",
        'x[y] @ git+https://example.org/x.git@main ; os_name == "posix"', "https://example.org/x-1-py3-none-any.whl",
        "git+https://example.org/x.git@v1#egg=x", "git+ssh://git@example.org/x.git", "x @ git+https://${TOKEN}@h/x.git",
        "${INDEX}/x.whl", "numpy==1.26.4 --hash=sha256:abcd --hash=sha256:ef", "numpy --config-settings=a=b",
        "--index-url https://example.org/simple", "-i https://example.org/simple", "--no-index", "--pre",
        "--no-binary :all:", "--find-links /opt/wheels", "--find-links https://example.org/w", "-f /opt/wheels",
        "--find-links=file:///opt/w", "-r https://example.org/base.txt", "--some-option-of-tomorrow=1",
    ],
)  # fmt: skip
def test_what_an_installer_takes_is_taken_as_it_is(line: str) -> None:
    assert wanted(line) == [line]


@pytest.mark.parametrize(
    "line",
    [
        ".", "..", ".[test]", "./lib", "../lib[x]", "/srv/lib", "~/lib", "lib/", "lib/x-1.whl", "x-1-py3-none-any.whl",
        "x-1.tar.gz", "x-1.zip; os_name == 'posix'", "file:///srv/lib", "file:lib", "FILE:///srv/lib",
        "git+file:///srv/lib", "x @ file:///srv/lib", "x@file:///srv/lib", "x @ ./lib", "x[y] @ /srv/lib", "x @ git+file:///srv/lib",
        "C:\\lib", "-e .", "-e.", "-e ./lib", "--editable=.", "--editable lib", "-r base.txt", "-rbase.txt",
        "--requirement base.txt", "--requirement=base.txt", "-c limits.txt", "-climits.txt",
        "--constraint=/srv/limits.txt", "-r file:///srv/x.txt",
    ],
)  # fmt: skip
def test_what_only_this_machine_has_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="a file of this machine, which runners do not have") as caught:
        wanted("numpy", line)
    assert repr(line) in str(caught.value)
    assert "sync=" in str(caught.value) or "give the lines" in str(caught.value)


@pytest.mark.parametrize(
    "line",
    [
        "numpy=>1", "numpy=<1", "numpy=1", "numpy>1.x", "numpy 1.26", "numpy pandas", "numpy,pandas", "numpy==", "==1",
        "!", "numpy[", "numpy[a", "numpy; python", "numpy; python_version > 3", "pip install numpy", "numpy>=1.26 <3",
    ],
)  # fmt: skip
def test_what_is_no_requirement_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="is not a requirement: ") as caught:
        wanted(line)
    text = str(caught.value)
    assert text.startswith(repr(line))
    assert "'numpy>=1.26,<3'" in text
    assert "\n" not in text


def test_an_editable_address_and_a_relative_folder_of_wheels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must not be editable.*leave out -e"):
        wanted("-e git+https://example.org/x.git#egg=x")
    for line in ("--find-links wheels", "--find-links=./wheels", "-fwheels"):
        with pytest.raises(ValueError, match="--find-links must name an address, or an absolute path on the host"):
            wanted(line)


def test_comments_and_empty_lines_do_not_count() -> None:
    assert wanted("", "  ", "# all", "numpy  # for arrays", "  attrs  ", "x @ https://h/x#egg=x") == [
        "numpy",
        "attrs",
        "x @ https://h/x#egg=x",
    ]
    assert wanted("numpy\n# two\nattrs") == ["numpy", "attrs"]
    assert wanted("numpy==1 \\", "  --hash=sha256:ab \\", "  --hash=sha256:cd") == [
        "numpy==1   --hash=sha256:ab   --hash=sha256:cd"
    ]
    assert wanted() == []


def test_a_file_is_read_as_an_installer_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "requirements.txt"
    path.write_bytes(b"\xef\xbb\xbfnumpy>=1 \\\n  --hash=sha256:ab\r\n# no\n\nattrs # yes\n")
    assert Sync(requirements=str(path)).requirements == ["numpy>=1   --hash=sha256:ab", "attrs"]
    path.write_bytes("numpy".encode("utf-16"))
    with pytest.raises(ValueError, match=r"requirements.txt' is not UTF-8 text"):
        Sync(requirements=path)


@pytest.mark.parametrize(("given", "error"), [("numpy", FileNotFoundError), (".", IsADirectoryError)])
def test_a_text_that_is_no_file_says_how_packages_are_named(given: str, error: type[OSError]) -> None:
    with pytest.raises(error, match=r"a string is the path of a requirements file; give packages as a list") as caught:
        Sync(requirements=given)
    assert caught.value.filename == given


def test_a_set_has_one_order() -> None:
    assert Sync(requirements={"b", "a", "c"}).requirements == ["a", "b", "c"]


@pytest.mark.parametrize("given", [[1], [b"numpy"], [Path("x")], [None], {"numpy": ">=1"}, b"numpy"])
def test_a_line_is_a_text(given: Any) -> None:
    with pytest.raises(TypeError, match="requirements must be strings, as in a requirements file, not"):
        Sync(requirements=given)


@pytest.mark.parametrize(
    "line",
    [
        "x @ https://me:s3cr@et@example.org/x y", "-e git+https://me:s3cret@example.org/x",
        "--find-links wheels//me:s3cret@x", "x=>1 @ https://me:s3cret@h", "/srv//me:s3cret@h",
    ],
)  # fmt: skip
def test_a_password_in_an_address_is_not_shown(line: str) -> None:
    with pytest.raises(ValueError, match="x") as caught:
        wanted(line)
    assert "s3cr" not in str(caught.value)


def test_a_backend_refuses_them_too() -> None:
    with pytest.raises(ValueError, match="'numpy=>1' is not a requirement"):
        SSHBackend(["host"], requirements=["numpy=>1"])


def test_without_packaging_the_installer_judges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "packaging.requirements", None)
    assert wanted("numpy=>1") == ["numpy=>1"]
    with pytest.raises(ValueError, match="file of this machine"):
        wanted(".")
