"""Evaluation of a finished model on labeled rows, written as one self-contained page."""
