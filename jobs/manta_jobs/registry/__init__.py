"""Promotion and comparison of registered models."""
