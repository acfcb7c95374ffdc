"""A model folder that a version of 2026-11-26 wrote, before inference formats had their names of today, still loads and answers.

It is a tiny encoder that was fine-tuned on generated rows; `/data` stands for the folders that it was made in.
"""

from __future__ import annotations

from pathlib import Path

from manta.inference.artifact import ModelArtifact
from manta.inference.predictor import Predictor

FOLDER = Path(__file__).with_name("artifact_of_november")


def test_it_answers_as_it_did_when_it_was_made() -> None:
    artifact = ModelArtifact.load(FOLDER)
    golden = artifact.golden()
    assert golden is not None
    assert len(golden.texts) > 3
    assert tuple(artifact.manifest.labels) == ("account", "billing", "delivery")
    assert not artifact.manifest.is_linear
    logits = Predictor(artifact, device="cpu").logits(list(golden.texts))
    probabilities = artifact.manifest.label_space.probabilities(logits)
    assert golden.fault(probabilities, format="safetensors", reduced=False) is None
    assert golden.fault(probabilities[::-1], format="safetensors", reduced=False) is not None
