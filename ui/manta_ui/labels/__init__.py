"""Rows and suspects that wait for a person's judgment, and what the page shows of them."""
