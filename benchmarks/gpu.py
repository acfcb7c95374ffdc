"""Fine-tuning on a GPU: `python benchmarks/gpu.py`, on a machine that has one.

An encoder of BERT-base's size with random weights (made on the spot, nothing is fetched) is fine-tuned in bfloat16 on synthetic
rows of 128 tokens each: by `manta train` with ZeRO 2, and by Hugging Face Trainer. Printed are tokens/s and the share of a bfloat16
matmul's speed that the model's arithmetic reaches. Then the artifact is loaded and asked on the CPU, in a process that sees no GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console

from figures import figures, result_rows, systems_table, write_results
from machine import environment, machine_facts, measured_matmul, use_cores
from manta.data import Split, TextDataset
from manta.labels import LabelSpace
from systems import SystemFailedError, finished, run_system, visible_gpus
from workload import write_workload

SYSTEMS = ("hf-trainer", "manta-zero-2")
NUM_TOKENS = 128
NUM_CLASSES = 4
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ON_CPU = """
import json, sys
from pathlib import Path
import torch
from manta.inference.artifact import ModelArtifact
from manta.inference.predictor import Predictor
predictor = Predictor(ModelArtifact.load(Path(sys.argv[1])))
prediction = predictor.predict([sys.argv[2]])[0]
print(json.dumps({"device": str(predictor.device), "gpus": torch.cuda.device_count(), "label": prediction.label}))
"""


def main() -> int:
    """Measure, check, print and write the figures if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=16384, help="training rows (%(default)s)")
    parser.add_argument("--eval-rows", type=int, default=512, help="validation and test rows, each (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=128, help="rows of a step (%(default)s)")
    parser.add_argument("--epochs", type=int, default=2, help="passes over the rows (%(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    if not visible_gpus():
        print("benchmarks/gpu.py needs a GPU, and torch sees none on this machine.", file=sys.stderr)
        return 1
    console, num_threads, case = Console(width=150), use_cores(None), "bert-base-128-tokens"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = {
            "model.pretrained": make_encoder(folder / "encoder"),
            "model.max_length": NUM_TOKENS,
            "train.batch_size": arguments.batch_size,
            "train.num_epochs": arguments.epochs,
        }
        dataset = synthetic_rows(arguments.rows, num_eval_rows=arguments.eval_rows)
        overrides = [f"{key}={value}" for key, value in settings.items()]
        workload = write_workload(dataset, folder, case=case, overrides=overrides)
        product = measured_matmul(num_threads)
        try:
            runs = {system: run_system(system, workload, num_threads=num_threads, folder=folder) for system in SYSTEMS}
            answer = answer_on_cpu(runs["manta-zero-2"].model, dataset.test.texts[0])
        except SystemFailedError as error:
            console.print(str(error), markup=False)
            return 1
    measured = {system: figures([run], workload, matmul_gflop_per_s=product["gflop_per_s"]) for system, run in runs.items()}
    console.print(systems_table(measured, workload, products=[product]))
    console.print(f"The artifact answers on the {answer['device']} of a process that sees {answer['gpus']} GPUs.")
    if arguments.json:
        results = [row for system, values in measured.items() for row in result_rows(system, case, values)]
        results += result_rows("matmul", case, {"gflop_per_s": [product["gflop_per_s"]]})
        write_results(arguments.json, machine_facts(num_threads) | product, results)
    return 0


def make_encoder(folder: Path) -> Path:
    """An encoder of BERT-base's size with random weights and a vocabulary of made-up words, in Hugging Face format."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    config = BertConfig()
    words = [*SPECIAL_TOKENS, *(f"word{index}" for index in range(config.vocab_size - len(SPECIAL_TOKENS)))]
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder)
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = BertTokenizer(vocab=vocabulary, model_max_length=config.max_position_embeddings)
    tokenizer.save_pretrained(folder)
    return folder


def synthetic_rows(num_rows: int, *, num_eval_rows: int) -> TextDataset:
    """Rows of `NUM_TOKENS` tokens with the special ones; every word is one token, and the first names the class."""
    generator = np.random.default_rng(0)

    def split(size: int) -> Split:
        targets = np.arange(size, dtype=np.int64) % NUM_CLASSES
        numbers = generator.integers(NUM_CLASSES, 30_000, (size, NUM_TOKENS - 2))
        numbers[:, 0] = targets
        return Split([" ".join(f"word{number}" for number in row) for row in numbers.tolist()], targets)

    labels = LabelSpace.from_labels([str(index) for index in range(NUM_CLASSES)])
    return TextDataset(split(num_rows), split(num_eval_rows), split(num_eval_rows), labels)


def answer_on_cpu(artifact: Path, text: str) -> dict[str, str | int]:
    """Load the artifact in a process without GPUs and ask it.

    Raises:
        SystemFailedError: it does not load or answer there, or not on the CPU.
    """
    command = [sys.executable, "-c", ON_CPU, str(artifact), text]
    output, _ = finished(command, environment(1) | {"CUDA_VISIBLE_DEVICES": ""})
    answer: dict[str, str | int] = json.loads(output)
    if answer["device"] != "cpu" or answer["gpus"]:
        raise SystemFailedError(f"the artifact was loaded on {answer['device']}, not on the CPU")
    return answer


if __name__ == "__main__":
    sys.exit(main())
