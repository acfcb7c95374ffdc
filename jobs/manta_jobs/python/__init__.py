"""The Python interface behind `import manta`: `train`, `tune`, `load` and the `Model` that they return."""
