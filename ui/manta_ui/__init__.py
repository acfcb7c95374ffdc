"""What people see: the Gradio page. It reaches the model over HTTP only."""
