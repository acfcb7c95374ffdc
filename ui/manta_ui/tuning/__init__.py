"""Searches and their trials, and what the page shows of them."""
