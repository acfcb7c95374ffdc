"""The metrics that are shown for a model, with their order and names."""

from __future__ import annotations

SHOWN_METRICS = (
    ("accuracy", "accuracy"),
    ("f1_micro", "micro F1"),
    ("f1_macro", "macro F1"),
    ("f1_weighted", "weighted F1"),
    ("precision_macro", "macro precision"),
    ("recall_macro", "macro recall"),
    ("loss", "loss"),
)
