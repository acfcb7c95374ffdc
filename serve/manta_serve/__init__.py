"""What answers: the Ray Serve application and its HTTP API."""
