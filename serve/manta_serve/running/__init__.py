"""The commands, the Ray Serve application, and what stands between a client and its replicas."""
