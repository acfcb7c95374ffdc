"""The names of the package for type checkers and editors. While a program runs, `__init__.py` finds them by their entry points."""

from manta.errors import InputError as InputError
from manta.errors import MantaError as MantaError
from manta.errors import RunError as RunError
from manta_jobs.python.model import Evaluation as Evaluation
from manta_jobs.python.model import Model as Model
from manta_jobs.python.verbs import load as load
from manta_jobs.python.verbs import train as train
from manta_jobs.python.verbs import tune as tune

__version__: str
