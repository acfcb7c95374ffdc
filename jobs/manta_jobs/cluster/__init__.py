"""The Ray cluster: connecting to it, checking it, growing it, and running a local one."""
