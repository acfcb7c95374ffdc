"""Storage of runs and models: folders, and object stores behind them."""
