"""Counts of requests and answers, drift, the text that Prometheus reads, and the log of requests."""
