"""The versions that a replica has loaded, and which of them answers a request."""
