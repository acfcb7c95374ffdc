"""Promotion of registered models, and comparison of two of them."""
