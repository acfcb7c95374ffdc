"""The Ray cluster: connecting, checking, growing, and a local one."""
