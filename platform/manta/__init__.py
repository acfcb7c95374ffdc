"""Manta fine-tunes text classifiers on Ray and keeps the best one.

`import manta` gives a Python program `train`, `tune`, `load`, and the errors that they raise (docs/python.md).

This package defines a run: its config, data, model, metrics, artifact and registry. It starts neither Ray nor a web server.
`manta_jobs` runs on the cluster, `manta_serve` answers over HTTP, `manta_ui` is the page.
"""

from importlib.metadata import entry_points
from typing import Any

from manta.errors import InputError, MantaError, RunError

__version__ = "0.1.0"
__all__ = ["Evaluation", "InputError", "MantaError", "Model", "RunError", "__version__", "load", "train", "tune"]


def __getattr__(name: str) -> Any:
    """Load a name of the Python interface when it is first used, so that `import manta` loads nothing heavy."""
    for point in entry_points(group="manta.python", name=name):
        return globals().setdefault(name, point.load())
    raise AttributeError(f"module 'manta' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
