"""The peers of `quality.py`: `python benchmarks/quality_peers.py SYSTEM FOLDER`, one fresh process each.

FOLDER holds `train.jsonl`, `test.jsonl` and `task.json`; the peer leaves `result.json` there: accuracy and macro F1 on the test
rows, the seconds of training, and versions. All use every training row, keep what the last step left, and look at no other rows.

`frozen` and `setfit` run in the peers' own environment and import nothing of Manta.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

BATCH_SIZE, MAX_LENGTH = 32, 128
WARMUP_FRACTION, WEIGHT_DECAY, MAX_GRAD_NORM, DROPOUT = 0.1, 0.01, 1.0, 0.1
PLAIN_LEARNING_RATE = 2e-4
TRAINERS = {"trainer-5e-5x3": (5e-5, 3), "trainer-2e-4x5": (2e-4, 5)}
"""Learning rate and epochs of Hugging Face Trainer."""
PLAIN_EPOCHS = ((8, 20), (32, 10), (128, 5))
"""Epochs of the plain loop where the largest class has at most so many rows; 3 where it has more."""
SETFIT_MANY_CLASSES, SETFIT_MAX_STEPS = 20, 150
FIGURES = ("accuracy", "f1_macro", "train_s")


@dataclass(frozen=True)
class Task:
    """The input of one peer."""

    folder: Path
    encoder: str
    seed: int
    texts: dict[str, list[str]]
    """Of train and test."""
    targets: dict[str, npt.NDArray[np.int64]]
    """Likewise, the classes by number."""
    num_classes: int

    @classmethod
    def read(cls, folder: Path) -> Task:
        """The task that `quality_systems.py` has written."""
        settings = json.loads((folder / "task.json").read_text(encoding="utf-8"))
        rows = {
            name: [json.loads(line) for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8").split("\n") if line]
            for name in ("train", "test")
        }
        number = {label: index for index, label in enumerate(sorted({row["label"] for row in rows["train"]}))}
        texts = {name: [row["text"] for row in split] for name, split in rows.items()}
        targets = {name: np.array([number[row["label"]] for row in split]) for name, split in rows.items()}
        return cls(folder, settings["encoder"], settings["seed"], texts, targets, len(number))


def tf_idf(task: Task) -> dict[str, Any]:
    """Words and word pairs with logistic regression, as Manta's preflight fits it."""
    from manta.data import Split, TextDataset
    from manta.evaluation.baseline import fit_baseline
    from manta.labels import LabelSpace

    labels = LabelSpace.from_labels([str(number) for number in range(task.num_classes)], task="multiclass")
    train, test = (Split(list(task.texts[name]), task.targets[name]) for name in ("train", "test"))
    baseline = fit_baseline(TextDataset(train, test, test, labels))
    return {name: baseline.test[name] for name in ("accuracy", "f1_macro")} | {"train_s": baseline.seconds}


def frozen(task: Task) -> dict[str, Any]:
    """Embeddings of the encoder as it is, with logistic regression."""
    from sentence_transformers import SentenceTransformer
    from sklearn.linear_model import LogisticRegression

    started = time.perf_counter()
    encoder = SentenceTransformer(task.encoder, device="cpu")
    model = LogisticRegression(C=10, max_iter=3000)
    model.fit(encoder.encode(task.texts["train"], show_progress_bar=False), task.targets["train"])
    train_s = time.perf_counter() - started
    predicted = model.predict(encoder.encode(task.texts["test"], show_progress_bar=False))
    return scores(predicted, task.targets["test"]) | {"train_s": train_s}


def setfit(task: Task) -> dict[str, Any]:
    """SetFit as its guide shows it (https://huggingface.co/docs/setfit/quickstart): contrastive steps, then logistic regression."""
    import datasets
    from setfit import SetFitModel, Trainer, TrainingArguments  # type: ignore[import-not-found]  # in the peers' environment

    rows = datasets.Dataset.from_dict({"text": task.texts["train"], "label": task.targets["train"].tolist()})
    max_steps = SETFIT_MAX_STEPS if task.num_classes > SETFIT_MANY_CLASSES else -1
    output = {"output_dir": str(task.folder / "setfit"), "save_strategy": "no", "report_to": "none", "show_progress_bar": False}
    arguments = TrainingArguments(seed=task.seed, max_steps=max_steps, **output)
    trainer = Trainer(model=SetFitModel.from_pretrained(task.encoder), args=arguments, train_dataset=rows)
    started = time.perf_counter()
    trainer.train()
    train_s = time.perf_counter() - started
    predicted = np.asarray(trainer.model.predict(task.texts["test"], show_progress_bar=False))
    return scores(predicted, task.targets["test"]) | {"train_s": train_s, "max_steps": max_steps}


def trainer(task: Task, *, learning_rate: float, num_epochs: int) -> dict[str, Any]:
    """Hugging Face Trainer as its guide shows it (https://huggingface.co/docs/transformers/tasks/sequence_classification)."""
    import torch
    from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

    from manta_jobs.training.engine.build import computes_bf16

    tokenizer, encoded = tokenized(task)
    arguments = TrainingArguments(
        output_dir=str(task.folder / "trainer"),
        num_train_epochs=num_epochs,
        learning_rate=learning_rate,
        per_device_train_batch_size=BATCH_SIZE,
        per_device_eval_batch_size=2 * BATCH_SIZE,
        weight_decay=WEIGHT_DECAY,
        warmup_steps=WARMUP_FRACTION,  # below 1 it is a share of all steps
        max_grad_norm=MAX_GRAD_NORM,
        seed=task.seed,
        bf16=computes_bf16(),
        use_cpu=not torch.cuda.is_available(),
        train_sampling_strategy="group_by_length",
        eval_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    run = Trainer(
        model=classifier(task),
        args=arguments,
        train_dataset=encoded["train"],
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
    )
    started = time.perf_counter()
    run.train()
    train_s = time.perf_counter() - started
    tested = run.predict(encoded["test"])  # its rows come in another order, and their labels alike
    facts = {"train_s": train_s, "num_epochs": num_epochs, "learning_rate": learning_rate, "bf16": computes_bf16()}
    return scores(np.asarray(tested.predictions).argmax(axis=-1), tested.label_ids) | facts


def plain_loop(task: Task) -> dict[str, Any]:
    """The loop that everyone writes first: AdamW, linear decay after a warm-up, batches of like length."""
    import torch
    from torch.utils.data import DataLoader
    from transformers import DataCollatorWithPadding, get_linear_schedule_with_warmup
    from transformers.trainer_pt_utils import LengthGroupedSampler

    from manta_jobs.training.engine.build import computes_bf16

    tokenizer, encoded = tokenized(task)
    collator, lengths = DataCollatorWithPadding(tokenizer), [len(row["input_ids"]) for row in encoded["train"]]
    model, num_epochs = classifier(task), plain_epochs(task.targets["train"])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device).train()
    order = LengthGroupedSampler(BATCH_SIZE, lengths=lengths, generator=torch.Generator().manual_seed(task.seed))
    batches = DataLoader(encoded["train"], batch_size=BATCH_SIZE, sampler=order, collate_fn=collator)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PLAIN_LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)
    num_steps = num_epochs * len(batches)
    schedule = get_linear_schedule_with_warmup(optimizer, round(WARMUP_FRACTION * num_steps), num_steps)
    started = time.perf_counter()
    for _ in range(num_epochs):
        for batch in batches:
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=computes_bf16()):
                loss = model(**batch.to(device)).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    train_s = time.perf_counter() - started
    model.eval()
    predicted: list[int] = []
    with torch.inference_mode(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=computes_bf16()):
        for batch in DataLoader(encoded["test"], batch_size=2 * BATCH_SIZE, collate_fn=collator):
            predicted += model(**batch.to(device)).logits.argmax(dim=-1).tolist()
    facts = {"train_s": train_s, "num_epochs": num_epochs, "learning_rate": PLAIN_LEARNING_RATE, "bf16": computes_bf16()}
    return scores(np.array(predicted), task.targets["test"]) | facts


def plain_epochs(targets: npt.NDArray[np.int64]) -> int:
    """More epochs for fewer rows of a class."""
    most = int(np.bincount(targets).max())
    return next((num_epochs for num_rows, num_epochs in PLAIN_EPOCHS if most <= num_rows), 3)


def tokenized(task: Task) -> tuple[Any, dict[str, Any]]:
    """The encoder's tokenizer, and the rows of train and test as it reads them."""
    import datasets
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(task.encoder)

    def read(batch: dict[str, list[str]]) -> Any:
        return tokenizer(batch["text"], truncation=True, max_length=MAX_LENGTH)

    splits = {name: {"text": task.texts[name], "label": task.targets[name].tolist()} for name in task.texts}
    rows = {name: datasets.Dataset.from_dict(columns) for name, columns in splits.items()}
    return tokenizer, {name: split.map(read, batched=True, remove_columns="text") for name, split in rows.items()}


def classifier(task: Task) -> Any:
    """The encoder with a new head, made by the seed."""
    from transformers import AutoModelForSequenceClassification, set_seed

    set_seed(task.seed)
    dropouts = {"hidden_dropout_prob": DROPOUT, "attention_probs_dropout_prob": DROPOUT}
    return AutoModelForSequenceClassification.from_pretrained(task.encoder, num_labels=task.num_classes, **dropouts)


def scores(predicted: npt.NDArray[Any], targets: npt.NDArray[Any]) -> dict[str, float]:
    """Accuracy and macro F1."""
    from sklearn.metrics import f1_score

    accuracy = float((np.asarray(predicted) == targets).mean())
    return {"accuracy": accuracy, "f1_macro": float(f1_score(targets, predicted, average="macro", zero_division=0.0))}


def versions() -> dict[str, str]:
    """Of the packages that this process has imported and that decide about its figures."""
    packages = ("torch", "transformers", "sentence-transformers", "setfit", "scikit-learn")
    modules = {"scikit-learn": "sklearn"} | {name: name.replace("-", "_") for name in packages if name != "scikit-learn"}
    return {name: importlib.metadata.version(name) for name in packages if modules[name] in sys.modules}


PEERS: dict[str, Callable[[Task], dict[str, Any]]] = {
    "tf-idf": tf_idf,
    "frozen": frozen,
    "setfit": setfit,
    "plain-loop": plain_loop,
}


def main() -> None:
    """Run one peer and write what it measured."""
    system, folder = sys.argv[1], Path(sys.argv[2])
    task = Task.read(folder)
    if system in TRAINERS:
        learning_rate, num_epochs = TRAINERS[system]
        result = trainer(task, learning_rate=learning_rate, num_epochs=num_epochs)
    else:
        result = PEERS[system](task)
    (folder / "result.json").write_text(json.dumps(result | {"versions": versions()}), encoding="utf-8")


if __name__ == "__main__":
    main()
