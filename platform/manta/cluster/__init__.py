"""Access to Ray clusters for the command line and the page: jobs, connections, ports."""
