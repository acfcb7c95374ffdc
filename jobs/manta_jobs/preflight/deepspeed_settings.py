"""The check of `train.deepspeed` by DeepSpeed itself, in a process of its own: DeepSpeed inspects the machine when imported.

python -m manta_jobs.preflight.deepspeed_settings < settings.json
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from manta.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from manta.config import TrainConfig

WITHIN_S = 120.0


def check_deepspeed(train: TrainConfig) -> None:
    """Check the user's own settings of DeepSpeed, if there are any.

    Raises:
        InputError: DeepSpeed refuses one; the message names it.
    """
    if not train.deepspeed:
        return
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", __name__]
    text = json.dumps(train.deepspeed, default=str)
    try:
        done = subprocess.run(command, input=text, env=environment, capture_output=True, text=True, timeout=WITHIN_S, check=False)  # noqa: S603  # our own command
    except subprocess.TimeoutExpired:
        return  # a machine too busy to say so is no fault of the settings
    said = done.stdout.strip().rsplit("\n", 1)[-1]
    if done.returncode == 0 and said.startswith("{"):
        fault = json.loads(said)
        raise InputError(f"{fault['setting']}: {fault['problem']}; see https://www.deepspeed.ai/docs/config-json.")


def main() -> None:
    """Read the settings as JSON from stdin, and write the first fault, if there is one, as JSON to stdout."""
    from manta_jobs.training.engine.zero import import_deepspeed

    logging.disable(logging.CRITICAL)
    import_deepspeed()
    for key, value in json.load(sys.stdin).items():
        if fault := _fault_of(key, value):
            sys.stdout.write("\n" + json.dumps(fault) + "\n")
            return


def _fault_of(key: str, value: Any) -> Mapping[str, str] | None:
    """Return what DeepSpeed says against one top-level setting; None if it takes it."""
    from deepspeed.runtime.config import DeepSpeedConfig
    from pydantic import ValidationError

    setting = f"train.deepspeed.{key}"
    document: dict[str, Any] = {"train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 1}
    try:
        DeepSpeedConfig(document | {key: value})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        inner = [str(part) for part in first["loc"] if part != key]
        problem = f"{first['input']!r:.100} is wrong: {first['msg'][0].lower()}{first['msg'][1:]}"
        return {"setting": ".".join([setting, *inner]), "problem": problem}
    except Exception as error:  # noqa: BLE001  # DeepSpeed trusts what it is given: a wrong type can fail in any way
        reason = str(error).strip().split("\n")[0]
        return {"setting": setting, "problem": f"DeepSpeed cannot use {value!r:.100} ({type(error).__name__}: {reason})"}
    return None


if __name__ == "__main__":
    main()
