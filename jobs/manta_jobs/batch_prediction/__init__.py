"""`manta predict`: a model's answer for every row of a file, a folder or a URL, in the order of the rows.

`locate` finds the files, `plan` cuts them into numbered chunks without keeping a row, `read` and `classify` run in the workers
that Ray Data starts, `partial` keeps what is finished in `OUT.partial/`, and `join` makes OUT of it. `run` calls them in turn.
"""

from manta_jobs.batch_prediction.result import BatchResult
from manta_jobs.batch_prediction.run import predict

__all__ = ["BatchResult", "predict"]
