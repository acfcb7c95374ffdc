"""The serving part: the Ray Serve application and its HTTP API."""
