"""Labelled texts: `read` brings rows in, `check` refuses bad ones, `split` divides them, `encode` tokenises them."""

from manta.data.dataset import Split, TextDataset, load_dataset, load_labelled

__all__ = ["Split", "TextDataset", "load_dataset", "load_labelled"]
