"""Where runs and models are kept: folders, and object stores behind them."""
