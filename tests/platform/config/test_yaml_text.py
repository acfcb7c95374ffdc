"""Reading YAML: what is refused before it is built, and what counts as a number."""

from __future__ import annotations

import ast
import time
from pathlib import Path

import pytest

from manta.config.yaml_text import MOST_ALIASED, MOST_CHARACTERS, read_yaml
from manta.errors import InputError

ROOT = Path(__file__).parents[3]
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


def refused(text: str) -> str:
    with pytest.raises(InputError) as caught:
        read_yaml(text, source="e.yaml")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: {a: 1}\nname: x\ndata: {a: 2}\n", "e.yaml: data is given twice, on line 1 and on line 3; keep one of them."),
        ("a:\n  b:\n    c: 1\n    d: 2\n    'c': 3\n", "e.yaml: c is given twice, on line 3 and on line 5; keep one of them."),
        ("- {a: 1,\n   a: 2}\n", "e.yaml: a is given twice, on line 1 and on line 2; keep one of them."),
    ],
)
def test_a_key_given_twice_is_named_with_both_lines(text: str, message: str) -> None:
    assert refused(text) == message


def test_few_bytes_that_stand_for_gigabytes_are_refused_at_once() -> None:
    assert len(BOMB) < 600
    start = time.perf_counter()
    assert "stand for more than" in refused(BOMB)
    assert time.perf_counter() - start < 1.0


def test_an_alias_may_save_typing() -> None:
    text = "a: &a {x: 1, y: 2}\nb: *a\nc: {<<: *a, y: 3}\n"
    assert read_yaml(text, source="e.yaml") == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 2}, "c": {"x": 1, "y": 3}}
    assert "stand for more than" in refused(f"a: &a [{'x, ' * 99}]\nb: [{', '.join(['*a'] * (MOST_ALIASED // 99 + 1))}]\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a\n  b: *a\n", "e.yaml:1: the value contains itself through an alias"),
        ("a: " + "[" * 60 + "]" * 60, "e.yaml:1: nested deeper than 50 levels"),
        ("[" * 900_000, "e.yaml:1: nested deeper than 50 levels"),
        ("a: 1\nb: 2024-13-45\n", "e.yaml:2: not valid YAML (month must be in 1..12; quote it)"),
        ("a: 1\nb: \0\n", "e.yaml:2: not valid YAML (special characters are not allowed)"),
        (
            "a: 1\nb: !!python/object:os.system x\n",
            "e.yaml:2: not valid YAML (the tag 'tag:yaml.org,2002:python/object:os.system' is unknown; ",
        ),
        ("a: 1\n\tb: 2\n", "e.yaml:2: not valid YAML (a tab stands where a line is indented; indent with blanks)"),
        ("a: 1\nb: it is: so\n", "e.yaml:2: not valid YAML (a colon too many, or a line indented too far; quote a text that"),
        ("a: 1\n---\nb: 2\n", "e.yaml:2: not valid YAML (expected a single document in the stream, but found another document)"),
        ("x" * (MOST_CHARACTERS + 1), "e.yaml: 1,000,001 characters are too many"),
    ],
    ids=["loop", "deep", "deeper", "date", "control", "object", "tab", "colon", "two", "long"],
)
def test_what_cannot_be_built_is_one_sentence_with_its_line(text: str, message: str) -> None:
    assert message in refused(text)


def test_only_decimal_digits_are_numbers() -> None:
    words = ["90:00", "1:30.5", "010", "0x10", "1_000", "+5", "9" * 200]
    assert read_yaml("\n".join(f"- {word}" for word in words), source="e.yaml") == words
    assert read_yaml("[0, 12, -3, 1.5, -.5, 2.0e-5]", source="e.yaml") == [0, 12, -3, 1.5, -0.5, 2e-5]


def test_no_other_part_of_the_product_parses_yaml() -> None:
    readers = set()
    for path in (path for part in ("platform", "jobs", "serve", "ui") for path in (ROOT / part).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id == "yaml"
                and "load" in node.attr
            ):
                readers.add(path.name)
    assert readers == set()
