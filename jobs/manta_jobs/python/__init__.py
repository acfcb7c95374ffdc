"""What `import manta` gives a Python program: `train`, `tune`, `load` and the `Model` that they return."""
