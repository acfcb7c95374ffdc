"""The DeepSpeed engine: its settings, precision and ZeRO stage, the memory it needs, and what an update does."""
