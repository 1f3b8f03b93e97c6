"""The interpreter on a host gets the options of the one that runs here."""

from __future__ import annotations

import sys
import warnings

import pytest

from tests.backends.ssh.conftest import Make, MakeBackend, MakeHost
from tests.support.helpers import PATIENCE


def look() -> tuple[list[str], int, bool, str | None]:
    return sys.warnoptions, sys.get_int_max_str_digits(), sys.flags.dont_write_bytecode > 0, sys.pycache_prefix


def warn() -> None:
    warnings.warn("of the user's", UserWarning, stacklevel=1)


def test_options_reach_a_runner_on_a_host_but_for_folders_of_this_machine(
    make_host: MakeHost, make_backend: MakeBackend, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = "error:of the user's:UserWarning"
    monkeypatch.setattr(sys, "warnoptions", [rule])
    options = {"int_max_str_digits": "700", "pycache_prefix": "/of/this/machine", "utf8": True}
    monkeypatch.setattr(sys, "_xoptions", options)
    executor = make(make_backend(make_host()))
    assert executor.submit(look).result(PATIENCE) == ([rule], 700, bool(sys.flags.dont_write_bytecode), None)
    with pytest.raises(UserWarning, match="of the user's"):
        executor.submit(warn).result(PATIENCE)
