"""First script of a submitted job on the cluster: `python job_start.py`, in the folder that came with the job.

It checks that this Python can do the work. It puts the job's files into the storage, where all nodes and a later `--resume` find
them. Then it calls the verb. Lines that begin with MARK are messages to `manta submit`. The file uses only syntax that an older
Python can parse, so that the version check runs there.
"""

import contextlib
import io
import json
import os
import sys
import traceback
from typing import Any, Dict  # noqa: UP035  # so that an old Python can read it

MARK = "MANTA-JOB "


def main() -> int:
    """Run the verb that `order.json` names, and return the exit code."""
    with open("order.json") as file:  # noqa: PTH123  # as old as need be
        order = json.load(file)
    if not order["python"][0] <= list(sys.version_info[:2]) < order["python"][1]:
        least, beyond = (".".join(map(str, version)) for version in order["python"])
        running = ".".join(map(str, sys.version_info[:3]))
        return failed(f"the cluster runs Python {running}; this version of Manta needs at least {least} and less than {beyond}.", 2)
    try:
        import ray  # noqa: F401
        import torch  # noqa: F401
        import transformers  # noqa: F401

        from manta_jobs.cli import commands, model_commands
    except ImportError as error:
        return failed(
            f"the cluster's {sys.executable} lacks {error.name}; install the project's requirements.lock on its nodes.", 2
        )
    import typer

    from manta.errors import MantaError, last_cause
    from manta_jobs.cluster.connection import connected

    if order["code"] is not None:
        from manta.cluster.job import code_package

        if code_package().digest != order["code"]:
            return failed(
                "the image's code is not the code that submitted this job; rebuild it, or submit without --image-code.", 2
            )
    try:
        params = decoded(order["params"], inputs=placed_inputs(order))
        os.chdir("/")  # nodes that share this machine lay the working folder anew, and we would stand in one that is gone
        output = io.StringIO()
        verb = getattr(model_commands if order["verb"] in ("promote", "rollback") else commands, order["verb"])
        # One connection from first to last: Ray removes a job's code and working folder when its driver leaves. A verb that
        # exits has said what came of it, such as a version that is not promoted, and the job has done its work all the same.
        with contextlib.suppress(typer.Exit), connected(None, num_workers=1), contextlib.redirect_stdout(output):
            verb(**params)
    except MantaError as error:
        return failed(str(error), error.exit_code)
    except Exception as error:  # noqa: BLE001  # the outermost place
        traceback.print_exc()  # into the job's log
        verb = order["verb"]
        return failed(
            f"{verb} broke off on an error that it does not know: {last_cause(error)}. The job's log has the traceback.", 1
        )
    finished(json.loads(output.getvalue().splitlines()[-1]))
    return 0


def placed_inputs(order: Dict[str, Any]) -> str:  # noqa: UP006
    """Put the job's files into the storage, and return their folder. `inputs` of the working folder is gone when the job ends."""
    from pathlib import Path
    from shutil import copytree

    from manta.storage.folders import Storage, written_folder
    from manta.storage.object_store import fetch, store

    target = fetch(Storage.resolve(order["storage"]).root / "submitted" / order["inputs"][:16])
    if order["has_inputs"] and not target.exists():
        with contextlib.suppress(FileExistsError), written_folder(target) as folder:
            copytree(Path("inputs"), folder, dirs_exist_ok=True)
        store(target)
    return str(target)


def decoded(value: Any, *, inputs: str) -> Any:
    """Return the arguments as the verb takes them: paths as `Path`, and `{inputs}` replaced by the folder of the job's files."""
    from pathlib import Path

    if isinstance(value, dict):
        return (
            Path(decoded(value["path"], inputs=inputs))
            if list(value) == ["path"]
            else {key: decoded(item, inputs=inputs) for key, item in value.items()}
        )
    if isinstance(value, list):
        return [decoded(item, inputs=inputs) for item in value]
    return value.replace("{inputs}", inputs) if isinstance(value, str) else value


def finished(result: Any) -> None:
    """Report the result to `manta submit`."""
    say({"result": result})


def failed(sentence: str, exit_code: int) -> int:
    """Report an error to `manta submit`, and return the exit code."""
    say({"error": sentence})
    return exit_code


def say(message: Any) -> None:
    """Write one line for `manta submit`, on a new line even if another process is in the middle of one."""
    os.write(1, ("\n" + MARK + json.dumps(message) + "\n").encode())


if __name__ == "__main__":
    sys.exit(main())
