"""`manta predict`: classify every row of a file, a folder or a URL, and keep the order of the rows.

`locate` finds the files. `plan` cuts them into numbered chunks without keeping a row. `read` and `classify` run in the workers
that Ray Data starts. `partial` keeps the finished chunks in `OUT.partial/`. `join` makes OUT of them. `run` calls them in turn.
"""

from manta_jobs.batch_prediction.result import BatchResult
from manta_jobs.batch_prediction.run import predict

__all__ = ["BatchResult", "predict"]
