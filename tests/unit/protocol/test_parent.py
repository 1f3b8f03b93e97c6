"""The value of ``DRAGONFLY_PARENT``."""

from __future__ import annotations

import binascii
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragonfly_executor.protocol.parent import Parent

# With half of a surrogate pair, as names of hosts that are no text in the system's encoding have.
texts = st.text(st.characters(exclude_categories=()))


@given(pool=texts, number=st.integers(0, 1 << 63), host=texts, token=st.none() | texts, until=st.none() | st.integers())
def test_a_parent_survives_its_environment_variable(
    pool: str, number: int, host: str, token: str | None, until: int | None
) -> None:
    parent = Parent(pool, number, "local", 7, host, 2, token=token, until=until)
    encoded = parent.encode()
    assert encoded.isascii()
    assert encoded.isprintable()
    assert Parent.decode(encoded) == parent
    # It is JSON, which runners of other versions read.
    said = {name: value for name, value in parent._asdict().items() if value is not None}
    assert json.loads(binascii.a2b_base64(encoded)) == said


@pytest.mark.parametrize("text", ["", "no base64", "e30=", "bnVsbA=="])
def test_other_texts_are_no_parent(text: str) -> None:
    with pytest.raises(ValueError, match="does not hold a parent's description"):
        Parent.decode(text)
