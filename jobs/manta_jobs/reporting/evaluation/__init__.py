"""What a finished model does on labelled rows, looked at from all sides and written as one self-contained page."""
