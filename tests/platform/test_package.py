"""The names that `import manta` gives a program."""

import re
from pathlib import Path

import pytest

import manta


def test_every_name_leads_somewhere_and_type_checkers_know_it() -> None:
    assert all(getattr(manta, name) is not None for name in manta.__all__)
    assert set(manta.__all__) <= set(dir(manta))
    stub = Path(str(manta.__file__)).with_suffix(".pyi").read_text(encoding="utf-8")
    assert {"__version__", *re.findall(r" as (\w+)$", stub, flags=re.MULTILINE)} == set(manta.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'manta' has no attribute 'tain'"):
        _ = manta.tain  # type: ignore[attr-defined]
