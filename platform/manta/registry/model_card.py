"""The model card: README.md of a finished model. It starts with the metadata that model hubs read.

Its parts follow Mitchell et al., 2019 (https://arxiv.org/abs/1810.03993); the metadata is described at
https://huggingface.co/docs/hub/model-cards.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from huggingface_hub import EvalResult, ModelCardData, hf_hub_download

from manta.config.yaml_text import read_yaml
from manta.errors import InputError, without_passwords

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from manta.inference.artifact import Manifest, ModelArtifact

EMBEDDED_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
LEFT_OUT = {"name", "data", "tune", "registry", "serve", "storage"}
"""Sections of the config that did not affect the weights, or that appear elsewhere on the card."""


def model_card(artifact: ModelArtifact, *, num_rows: Mapping[str, int] | None = None) -> str:
    """Return the card of an artifact in Markdown. `num_rows` are the rows of each split, if they are known.

    The card shows only the last part of a path, so that it names no folders of this machine.
    """
    manifest = artifact.manifest
    base = base_model(manifest.pretrained)
    licence, language = base_metadata(manifest.pretrained)
    sections = [
        _front_matter(manifest, base=base, licence=licence, language=language),
        f"# {manifest.name}\n\n{_summary(manifest, base)}",
        _use(manifest),
        _data(manifest, num_rows or {}),
        f"## Results on the test rows\n\n{_metrics(manifest, validation=False)}",
        f"On the validation rows (cross-validated where none were set aside):\n\n{_metrics(manifest, validation=True)}",
        _calibration(getattr(manifest, "calibration", None)),
        _training(manifest),
        _limits(manifest, language),
        _licence(manifest, base, licence),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def base_model(pretrained: str) -> str:
    """Return the public name of the encoder: a hub id, or the last part of a folder's path."""
    if pretrained == "embedded":
        return EMBEDDED_MODEL
    return PurePath(pretrained).name if Path(pretrained).is_absolute() or Path(pretrained).is_dir() else pretrained


def base_metadata(pretrained: str) -> tuple[str | None, str | None]:
    """Return license and language from the encoder's own card, in its folder or on the hub; None if the card does not say."""
    text = ""
    folder = _folder_of(pretrained)
    if folder is not None:
        card = folder / "README.md"
        text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    elif not Path(pretrained).is_absolute():
        text = _hub_card(pretrained)
    found = re.match(r"---\s*\n(.*?)\n---\s*(?:\n|$)", text, flags=re.DOTALL)
    try:
        facts = read_yaml(found.group(1), source=pretrained) if found else {}
    except InputError:
        facts = {}
    facts = facts if isinstance(facts, dict) else {}
    language, licence = facts.get("language"), facts.get("license")
    names = ", ".join(map(str, language)) if isinstance(language, list) else language
    return str(licence) if licence else None, str(names) if names else None


def _folder_of(pretrained: str) -> Path | None:
    from manta.model.pretrained import pretrained_source

    try:
        source = Path(pretrained_source(pretrained))
    except InputError:  # the folder existed when the model was trained
        return None
    return source if source.is_dir() else None


def _hub_card(name: str) -> str:
    """Return the encoder's card from the local cache or the hub; empty if neither has it."""
    try:
        return Path(hf_hub_download(name, "README.md")).read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError, RuntimeError):
        return ""


def _front_matter(manifest: Manifest, *, base: str, licence: str | None, language: str | None) -> str:
    source = source_name(str(manifest.config.get("data", {}).get("train", "unknown")))
    results = [
        EvalResult(
            task_type="text-classification",
            task_name="Text Classification",
            dataset_type=source,
            dataset_name=source,
            dataset_split="test",
            metric_type=key,
            metric_name=key,
            metric_value=round(value, 5),
        )
        for key, value in manifest.metrics.items()
        if not key.startswith("validation_")
    ]
    facts = ModelCardData(
        model_name=manifest.name,
        library_name="sentence-transformers" if manifest.is_linear else "transformers",
        pipeline_tag="text-classification",
        tags=["text-classification", "manta"],
        metrics=[name for name in ("accuracy", "f1") if any(key.startswith(name) for key in manifest.metrics)],
        base_model=base if "/" in base else None,
        license=licence,
        language=[part.strip() for part in language.split(",")] if language else None,
        eval_results=results,
    )
    return f"---\n{facts.to_yaml()}\n---"


def _summary(manifest: Manifest, base: str) -> str:
    what = "pairs of texts" if manifest.num_texts == 2 else "texts"
    several = "any number of" if manifest.task == "multilabel" else "one of"
    made = "unchanged, with a logistic regression on its embeddings, made" if manifest.is_linear else "fine-tuned"
    if manifest.method == "contrastive":
        made = "adapted so that texts of one label have similar embeddings, with a logistic regression on these, made"
    method = "" if manifest.method is None else f" (method {manifest.method})"
    return f"Gives {what} {several} {len(manifest.labels)} labels. It is {base}, {made} by Manta in run `{manifest.run}`{method}."


def _use(manifest: Manifest) -> str:
    if manifest.is_linear:
        return _use_of_linear(manifest)
    text = '{"text": "…", "text_pair": "…"}' if manifest.num_texts == 2 else '"…"'
    return (
        "## Use\n\n```python\nfrom transformers import pipeline\n\n"
        f'classify = pipeline("text-classification", DIR, top_k=None)\nclassify({text}, truncation=True, '
        f"max_length={manifest.max_length})\n```\n\n`DIR` is this folder. Thresholds, calibration and faster formats are used by "
        "Manta's own `Predictor`; plain `transformers` gives the probabilities of the weights as they are."
    )


def _use_of_linear(manifest: Manifest) -> str:
    text = '("…", "…")' if manifest.num_texts == 2 else '"…"'
    turns = "1 / (1 + np.exp(-logits))" if manifest.task == "multilabel" else "scipy.special.softmax(logits, axis=1)"
    imports = "import numpy as np" if manifest.task == "multilabel" else "import scipy.special"
    return (
        f"## Use\n\n```python\n{imports}\nfrom sentence_transformers import SentenceTransformer\n\n"
        f"logits = SentenceTransformer(DIR).encode([{text}])  # one column for each label, in the order below\n"
        f"probabilities = {turns}\n```\n\n`DIR` is this folder, in the layout of sentence-transformers: encoder, pooling and a "
        "dense layer whose outputs are the logits. Thresholds, calibration and faster formats are used by Manta's own `Predictor`; "
        "the logits of this folder are those of the weights as they are."
    )


def _data(manifest: Manifest, num_rows: Mapping[str, int]) -> str:
    data = manifest.config.get("data", {})
    rows = [("source of " + name, source_name(data[name])) for name in ("train", "validation", "test") if data.get(name)]
    rows += [(f"{name} rows", f"{count:,}") for name, count in num_rows.items()]
    rows += [("sha256 of all rows", f"`{manifest.data_hash}`"), ("labels", ", ".join(map(_code, manifest.labels)))]
    if manifest.thresholds:
        pairs = zip(manifest.labels, manifest.thresholds, strict=True)
        rows.append(("a label applies from", ", ".join(f"{_code(label)} {value:.3f}" for label, value in pairs)))
    return f"## Data\n\n{_table(('what', 'value'), rows)}"


def _calibration(calibration: Any) -> str:
    if calibration is None:
        return ""
    rows = [(key, _shown(value)) for key, value in _flat(calibration.model_dump())]
    return f"## Calibration\n\n{_table(('what', 'value'), rows)}"


def _training(manifest: Manifest) -> str:
    settings = {key: value for key, value in manifest.config.items() if key not in LEFT_OUT}
    model = settings.get("model")
    if isinstance(model, dict) and "pretrained" in model:
        settings["model"] = model | {"pretrained": base_model(str(model["pretrained"]))}
    versions = ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
    rows = [(_code(key), _shown(value)) for key, value in _flat(settings)]
    return f"## Training\n\n{_table(('setting', 'value'), rows)}\n\nMade on {manifest.created} with {versions}."


def _limits(manifest: Manifest, language: str | None) -> str:
    spoken = f"its encoder was trained on {language}" if language else "what languages its encoder knows is not recorded"
    unit = "pair of texts" if manifest.num_texts == 2 else "text"
    cut = f"It reads the first {manifest.max_length} tokens of a {unit}; the rest is cut off."
    windows = f"It reads a longer text in windows of {manifest.max_length} tokens and averages their logits. Other programs cut it."
    lines = [
        windows if manifest.long_texts == "windows" else cut,
        "It knows the labels above and no other: a text that fits none of them gets one all the same."
        if manifest.task != "multilabel"
        else "It knows the labels above and no other.",
        f"Language: {spoken}; it was fine-tuned and tested on the rows above only.",
        "The figures hold for texts like the test rows. Other texts, groups of writers or times were not tested.",
    ]
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _licence(manifest: Manifest, base: str, licence: str | None) -> str:
    if licence:
        return f"## License\n\nThe base model {base} is under {licence}, by its own card."
    where = f"https://huggingface.co/{base}" if "/" in base else f"where {base} came from"
    return f"## License\n\nThe license of the base model {base} is not known; see {where}."


def source_name(source: str) -> str:
    """Return the source of rows, without folders of this machine and without passwords in a URL."""
    parts = urlsplit(source)
    if parts.scheme == "sample":
        return source
    if parts.scheme and parts.netloc:
        return without_passwords(f"{parts.scheme}://{parts.netloc}{parts.path}")
    return PurePath(source).name


def _metrics(manifest: Manifest, *, validation: bool) -> str:
    prefix = "validation_"
    chosen = {key: value for key, value in manifest.metrics.items() if key.startswith(prefix) is validation}
    return _table(("metric", "value"), [(key.removeprefix(prefix), f"{value:.4f}") for key, value in chosen.items()])


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else _rounded(value)


def _rounded(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _code(text: str) -> str:
    return f"`{text}`"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    cells = ((cell.replace("|", "\\|").replace("\n", " ") for cell in line) for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)
