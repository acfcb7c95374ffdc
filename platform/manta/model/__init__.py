"""The encoder and its head: loading, adapting, the forward pass and the loss."""
