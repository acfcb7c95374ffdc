"""Parts that all routes share: their paths, the scope of a key for each, and the format of errors."""
