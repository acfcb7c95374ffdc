"""What the command line and the page share about Ray clusters: jobs, connections, ports."""
