"""Export of a finished model to its own folder, for plain `transformers`, a model hub, or another registry of Manta's."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from manta.errors import InputError
from manta.inference.artifact import CARD_FILE, MANIFEST_FILE, ModelArtifact
from manta.inference.artifact_writing import with_card
from manta.registry.model_card import model_card
from manta.storage.folders import written_folder

if TYPE_CHECKING:
    from pathlib import Path


def export_model(artifact: ModelArtifact, to: Path) -> Path:
    """Write the model to the folder `to` and return it.

    `transformers.pipeline("text-classification", to)` loads it; a linear model, `sentence_transformers.SentenceTransformer(to)`.

    The folder has the format of model hubs: weights, config, tokenizer and a model card. With `manta.json` it is also an artifact.
    Every file's sha256 is checked.

    Raises:
        InputError: `to` is a file or a folder that is not empty, or the artifact is damaged.
        RunError: the disk is full or cannot be written; nothing is left at `to`.
    """
    ModelArtifact.load(artifact.path)
    try:
        with written_folder(to) as partial:
            for name in (MANIFEST_FILE, *artifact.manifest.files):
                (partial / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(artifact.path / name, partial / name)
            copy = ModelArtifact.load(partial)
            if CARD_FILE not in copy.manifest.files:  # a model of an earlier version
                with_card(copy, model_card(copy))
    except FileExistsError:
        raise InputError(f"{to}: there already, and not an empty folder; give a new folder.") from None
    return to
