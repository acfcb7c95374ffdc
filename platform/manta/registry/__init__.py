"""Registered versions: the decisions about them, the gate, tracking, model cards and export."""
