"""``serializer=``: by name, or an object of the user's."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from typing import Any

import cloudpickle
import pytest

from dragonfly_executor.errors import CallDeserializationError, CallSerializationError, ResultSerializationError
from dragonfly_executor.serialization import CallCodec
from tests.support import importable
from tests.support.codec_pair import CodecPair
from tests.support.codec_process import ROOT, CodecProcess


class Counting:
    """cloudpickle, with a mark, so that each side shows that it was asked."""

    def __init__(self, mark: bytes = b"marked") -> None:
        self.mark = mark

    def dumps(self, thing: Any) -> bytes:
        return self.mark + cloudpickle.dumps(thing)

    def loads(self, data: bytes) -> Any:
        assert data.startswith(self.mark)
        return pickle.loads(data[len(self.mark) :])


class Broken:
    def dumps(self, thing: Any) -> bytes:
        raise RuntimeError("no dumps today")

    def loads(self, data: bytes) -> Any:
        raise RuntimeError("no loads today")


class Silent(Counting):
    def loads(self, data: bytes) -> Any:
        raise RuntimeError("no loads today")


@pytest.mark.parametrize("name", ["json", "", "Cloudpickle"])
def test_unknown_name(name: str) -> None:
    with pytest.raises(ValueError, match="'cloudpickle', 'dill' or 'pickle'"):
        CallCodec(name)


@pytest.mark.parametrize("thing", [None, 5, json.JSONEncoder, object()])
def test_not_a_serializer(thing: Any) -> None:
    with pytest.raises(TypeError, match="dumps and loads"):
        CallCodec(thing)


def test_dill_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dill", None)
    with pytest.raises(ValueError, match=r"pip install dragonfly-executor\[dill\]"):
        CallCodec("dill")


def test_dill_pickles_what_cloudpickle_cannot() -> None:
    pytest.importorskip("dill", reason="dill is an extra")
    import threading

    with CodecProcess("dill") as far:
        assert far(lambda lock: lock.acquire(timeout=0), threading.Lock())
        assert far(importable.same, ...) is ...
    with pytest.raises(CallSerializationError):
        CallCodec().encode_call(importable.same, (threading.Lock(),), {})


@pytest.mark.parametrize("serializer", [Counting(), Counting(b"other"), cloudpickle], ids=["own", "state", "module"])
def test_object_of_the_users(serializer: Any) -> None:
    with CodecProcess(serializer) as far:
        assert far(importable.add, 1, y=2) == 3
        assert far(lambda x: x * 2, 4) == 8
        error = far.error(importable.add, 1, "x")
        assert type(error) is TypeError
        assert far.retryable((TypeError,), importable.add, 1, "x")


def test_object_that_fails() -> None:
    with pytest.raises(CallSerializationError, match="no dumps today"):
        CallCodec(Broken()).encode_call(importable.add, (1,), {})
    near = CodecPair(Silent())
    near.slot._format.custom = Silent()
    error = near.error(importable.add, 1)
    assert isinstance(error, CallDeserializationError)
    assert "no loads today" in str(error)


def test_serializer_that_cannot_travel() -> None:
    import threading

    serializer = Counting()
    serializer.mark = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(CallSerializationError):
        CallCodec(serializer).setup()


def test_pickle_sends_by_reference_only() -> None:
    near = CodecPair("pickle")
    assert near(importable.add, 1) == 2
    assert near(importable.same, importable.Thing(3)) == importable.Thing(3)

    def local() -> None: ...

    for thing in (lambda: 1, local, type("Local", (), {})):
        with pytest.raises(CallSerializationError, match="serializer='pickle' sends by reference only"):
            near.codec.encode_call(thing, (), {})
        with pytest.raises(CallSerializationError, match="serializer='pickle' sends by reference only"):
            near.codec.encode_call(importable.same, (thing,), {})
    assert isinstance(near.error(importable.reader), ResultSerializationError)


LIGHT = """
import sys
before = set(sys.modules)
from dragonfly_executor.serialization import {names}
heavy = {{"cloudpickle", "dill", "ast", "dis", "inspect", "runpy", "asyncio", "ssl", "numpy", "multiprocessing",
         "logging", "dataclasses", "concurrent.futures.process", "traceback"}}
print(sorted(heavy & set(sys.modules) - before))
{then}
print(sorted(heavy & set(sys.modules) - before))
"""
USE_CODEC = "CallCodec().setup(); print(len(CallCodec().encode_call(max, (1, 2), {})))"
USE_SLOT = "print(SlotCodec.__name__, perform.__name__)"


@pytest.mark.parametrize(
    ("names", "then", "shown"),
    [("CallCodec", USE_CODEC, "1"), ("SlotCodec, perform", USE_SLOT, "SlotCodec perform")],
)
def test_plain_calls_load_nothing_heavy(names: str, then: str, shown: str) -> None:
    command = [sys.executable, "-c", LIGHT.format(names=names, then=then)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", shown, "[]"]


def test_guarded_script_loads_nothing_heavy_but_its_parser(tmp_path: Any) -> None:
    text = """
import sys
from dragonfly_executor.serialization import CallCodec
def work(x):
    return len(x)
if __name__ == "__main__":
    print(len(CallCodec().encode_call(work, ("x",), {})), "cloudpickle" in sys.modules, "dis" in sys.modules)
"""
    (tmp_path / "script.py").write_text(text)
    environment = {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(tmp_path / "script.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "1 False False\n"
