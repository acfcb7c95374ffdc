"""The commands, and what runs: the page as a process or on Ray Serve, and what it starts beside itself."""
