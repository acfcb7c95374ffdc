"""Labeled texts: `read` reads rows, `check` refuses bad ones, `split` divides them, `encode` tokenizes them.

Texts are Arrow on disk (`stored`) and labels codes (`coded`), from the file to the batch.
"""

from manta.data.dataset import Split, TextDataset, load_dataset, load_labelled

__all__ = ["Split", "TextDataset", "load_dataset", "load_labelled"]
