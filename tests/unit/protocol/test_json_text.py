"""JSON that is written, and simple JSON that is read, without the module of that name."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragonfly_executor.protocol.json_text import simple_object, to_json

texts = st.text(st.characters(exclude_categories=()))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
)


@given(value=values)
def test_json_reads_what_is_written(value: object) -> None:
    assert json.loads(to_json(value)) == value


@given(value=st.dictionaries(texts, texts | st.integers(), min_size=1))
def test_simple_objects_are_read_back(value: dict[str, str | int]) -> None:
    # Without backslashes in the texts themselves, there is nothing that `json` would have to read.
    is_simple = not any("\\" in f"{name}{each}" for name, each in value.items())
    found = simple_object(to_json(value).decode(errors="surrogatepass"))
    assert found == value if is_simple else found in (value, None)


@given(value=st.dictionaries(texts, values, min_size=1), ascii_only=st.booleans())
def test_other_json_is_read_right_or_not_at_all(value: dict[str, object], ascii_only: bool) -> None:
    found = simple_object(json.dumps(value, ensure_ascii=ascii_only))
    assert found is None or found == value


@pytest.mark.parametrize("text", ["", "[]", "null", '{"a": null}', '{"a": 1.5}', '{"a"', '{"a": "b', '{"a": {"b": 1}}'])
def test_whatever_else_is_left_to_json(text: str) -> None:
    assert not simple_object(text)
