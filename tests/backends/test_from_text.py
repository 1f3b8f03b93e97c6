"""The arguments of backends from the texts of a command line."""

from __future__ import annotations

import pytest

from dragonfly_executor.backends.from_text import amounts, arguments_from_text, pairs, truth, words


def test_arguments_are_read_from_texts() -> None:
    texts = {
        "port": "7", "queue_timeout": "1.5", "resources": "GPU=1 MEM=4e9", "sync": "none", "python": "python3",
        "labels": "eu big", "num_cpus": "2", "sweep": "No", "requirements": "numpy>=2, pillow",
    }  # fmt: skip
    assert arguments_from_text(texts, num_cpus=float, resources=amounts, requirements=words) == {
        "port": 7, "queue_timeout": 1.5, "resources": {"GPU": 1.0, "MEM": 4e9}, "sync": None, "python": "python3",
        "labels": ["eu", "big"], "num_cpus": 2.0, "sweep": False, "requirements": ["numpy>=2", "pillow"],
    }  # fmt: skip


def test_labels_may_have_commas_between_them() -> None:
    assert arguments_from_text({"labels": "eu,big"}) == {"labels": ["eu", "big"]}


def test_a_label_selector_is_read_from_text() -> None:
    assert pairs("region=eu zone=a=b") == {"region": "eu", "zone": "a=b"}
    with pytest.raises(ValueError, match="write NAME=VALUE"):
        pairs("region")


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"port": "seven"}, "cannot read port=seven"),
        ({"resources": "GPU"}, "cannot read resources=GPU: write NAME=AMOUNT"),
        ({"spot": "perhaps"}, "cannot read spot=perhaps: write true or false"),
    ],
)
def test_a_text_that_cannot_be_read_is_named(settings: dict[str, str], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        arguments_from_text(settings, resources=amounts, spot=truth)
