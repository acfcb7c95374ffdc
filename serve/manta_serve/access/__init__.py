"""Who may use the API: its keys, and the layers in front of it."""
