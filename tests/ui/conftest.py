"""The page that the tests of the page share, with content in every tab."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .exhibits import exhibit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .exhibits import Exhibit


@pytest.fixture(scope="session")
def shown(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exhibit]:
    """A page in front of models of twelve labels with long names."""
    with exhibit(tmp_path_factory.mktemp("exhibit"), num_labels=12, encoder=tiny_model) as found:
        yield found
