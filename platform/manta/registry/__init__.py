"""Registered versions: what was decided about them, the gate, tracking, model cards and export."""
