"""The user interface: the Gradio page. It reaches the model over HTTP only."""
