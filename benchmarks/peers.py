"""The peers of Manta's training: `python benchmarks/peers.py SYSTEM EXPERIMENT.yaml THREADS FOLDER`, one fresh process each.

Every peer reads the experiment that Manta gets, trains, evaluates and saves after each epoch, keeps the best epoch, reads the test
rows once and leaves the model and `result.json` in FOLDER: the seconds of each epoch's training steps, and the accuracy on test.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from machine import synchronize
from manta.config import ExperimentConfig
from manta.config.file import load_config
from manta.model.encoder import build_model, load_tokenizer, set_dropout
from manta.model.pretrained import pretrained_source
from manta_jobs.training.engine.build import computes_bf16

EVALUATION_BATCH_SIZE = 64  # as Manta's
TextFunction = Callable[[dict[str, list[Any]]], dict[str, list[Any]]]


class StepClock(TrainerCallback):
    """Seconds of each epoch's training steps in Trainer, which evaluates and saves after `on_epoch_end`."""

    def __init__(self) -> None:
        self.epochs_s: list[float] = []
        self._started = 0.0

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: D102
        synchronize()
        self._started = time.perf_counter()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: D102
        synchronize()
        self.epochs_s.append(time.perf_counter() - self._started)


def hf_trainer(config: ExperimentConfig, folder: Path, *, sampling: str, bf16: bool) -> dict[str, Any]:
    """Hugging Face Trainer as its guide shows it (https://huggingface.co/docs/transformers/tasks/sequence_classification)."""
    import datasets
    from transformers import AutoConfig, AutoModelForSequenceClassification, DataCollatorWithPadding, Trainer, TrainingArguments

    source, train = pretrained_source(config.model.pretrained), config.train
    tokenizer = load_tokenizer(config.model)
    files = {"train": config.data.train, "validation": config.data.validation, "test": config.data.test}
    rows = datasets.load_dataset("json", data_files=files, cache_dir=str(folder / "cache"))
    rows = rows.map(tokenize_with(tokenizer, config.model.max_length), batched=True)
    model_config = AutoConfig.from_pretrained(source, num_labels=len(set(rows["train"]["label"])))
    set_dropout(model_config, config.model.dropout)
    torch.manual_seed(train.seed)
    model = AutoModelForSequenceClassification.from_pretrained(source, config=model_config, dtype=torch.float32)
    clock = StepClock()
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(folder / "checkpoints"),
            num_train_epochs=train.planned_epochs,
            learning_rate=train.peak_learning_rate,
            per_device_train_batch_size=train.batch_size,
            per_device_eval_batch_size=EVALUATION_BATCH_SIZE,
            weight_decay=train.weight_decay,
            warmup_steps=train.warmup_fraction,  # below 1 it is a share of all steps
            max_grad_norm=train.max_grad_norm,
            seed=train.seed,
            bf16=bf16,
            use_cpu=not torch.cuda.is_available(),
            train_sampling_strategy=sampling,
            eval_strategy="epoch",
            save_strategy="epoch",
            save_total_limit=1,
            load_best_model_at_end=True,
            metric_for_best_model="accuracy",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=rows["train"],
        eval_dataset=rows["validation"],
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=lambda answer: {"accuracy": accuracy(answer.predictions, answer.label_ids)},
        callbacks=[clock],
    )
    trainer.train()
    tested = trainer.predict(rows["test"])  # with length grouping its rows come in another order, and their labels alike
    trainer.save_model(str(folder / "model"))
    return {"epochs_s": clock.epochs_s, "accuracy": accuracy(tested.predictions, tested.label_ids)}


def tokenize_with(tokenizer: Any, max_length: int) -> TextFunction:
    """Return the function that `Dataset.map` applies to a batch of rows."""
    return lambda batch: dict(tokenizer(batch["text"], truncation=True, max_length=max_length))


def accuracy(logits: Any, targets: Any) -> float:
    """Share of rows whose largest logit is the right one."""
    return float((np.asarray(logits).argmax(axis=-1) == np.asarray(targets)).mean())


def plain_torch(config: ExperimentConfig, folder: Path) -> dict[str, Any]:
    """A plain PyTorch loop over the batches that Manta makes, with fused AdamW: Manta without Ray Train and DeepSpeed."""
    from transformers import get_linear_schedule_with_warmup

    from manta.data import load_dataset
    from manta.data.encode import EncodedSplit, write_encoded
    from manta_jobs.training.batches import TrainingBatches

    settings, device = config.train, torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer, dataset = load_tokenizer(config.model), load_dataset(config.data)
    splits: dict[str, EncodedSplit] = {}
    for name in ("train", "validation", "test"):
        path = folder / f"{name}.arrow"
        write_encoded(dataset.split(name), path, tokenizer=tokenizer, max_length=config.model.max_length)
        splits[name] = EncodedSplit(path)
    train, pad_id = splits["train"], int(tokenizer.pad_token_id)
    batches = TrainingBatches(train.lengths, settings.batch_size, settings.seed)

    torch.manual_seed(settings.seed)
    model = build_model(config.model, dataset.labels).to(device).train()
    optimizer = torch.optim.AdamW(decayed_groups(model, settings.weight_decay), lr=settings.peak_learning_rate, fused=True)
    num_steps = batches.num_steps * settings.planned_epochs
    schedule = get_linear_schedule_with_warmup(optimizer, round(num_steps * settings.warmup_fraction), num_steps)
    epochs_s: list[float] = []
    train_losses: list[float] = []
    best = -1.0
    for epoch in range(settings.planned_epochs):
        started = time.perf_counter()
        losses = torch.zeros((), device=device)
        for rows in batches.epoch(epoch):
            inputs = {name: torch.from_numpy(array).to(device) for name, array in train.padded(rows, pad_id=pad_id).items()}
            targets = torch.from_numpy(train.targets[rows]).to(device)
            labels = targets.float().unsqueeze(1) if dataset.labels.task == "binary" else targets
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=computes_bf16()):
                loss = model(**inputs, labels=labels).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses += loss.detach()
        synchronize()
        epochs_s.append(time.perf_counter() - started)
        train_losses.append(float(losses) / batches.num_steps)
        reached = plain_accuracy(model, splits["validation"], pad_id=pad_id)
        torch.save(optimizer.state_dict(), folder / "optimizer.pt")
        if reached > best:
            best = reached
            model.save_pretrained(folder / "model")
            tokenizer.save_pretrained(folder / "model")
    model = type(model).from_pretrained(folder / "model", dtype=torch.float32).to(device)
    tested = plain_accuracy(model, splits["test"], pad_id=pad_id)
    return {"epochs_s": epochs_s, "train_losses": train_losses, "accuracy": tested}


def decayed_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices with weight decay, biases and norms without, as Trainer and Manta have it."""
    parameters = list(model.parameters())
    return [
        {"params": [parameter for parameter in parameters if parameter.ndim > 1], "weight_decay": weight_decay},
        {"params": [parameter for parameter in parameters if parameter.ndim <= 1], "weight_decay": 0.0},
    ]


def plain_accuracy(model: Any, split: Any, *, pad_id: int) -> float:
    """Accuracy on a split, in batches of like length."""
    from manta_jobs.training.batches import evaluation_batches

    num_right = 0
    model.eval()
    with torch.inference_mode():
        for rows, _ in evaluation_batches(split.lengths, batch_size=EVALUATION_BATCH_SIZE, rank=0, world_size=1):
            inputs = {name: torch.from_numpy(array).to(model.device) for name, array in split.padded(rows, pad_id=pad_id).items()}
            with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=computes_bf16()):
                logits = model(**inputs).logits.float().cpu().numpy()
            chosen = logits.argmax(axis=-1) if logits.shape[1] > 1 else (logits[:, 0] > 0).astype(np.int64)
            num_right += int((chosen == split.targets[rows]).sum())
    model.train()
    return num_right / len(split)


def main() -> None:
    """Run one peer and write what it measured."""
    system, experiment, num_threads, target = sys.argv[1:]
    torch.set_num_threads(int(num_threads))
    config, folder = load_config(Path(experiment)), Path(target)
    if system == "plain-torch":
        result = plain_torch(config, folder)
    else:
        result = hf_trainer(
            config,
            folder,
            sampling="random" if system == "hf-trainer" else "group_by_length",
            bf16=computes_bf16() and (system == "hf-trainer-grouped-bf16" or torch.cuda.is_available()),
        )
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
