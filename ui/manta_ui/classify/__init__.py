"""Answers to texts and to files of rows, and what the page shows of them."""
