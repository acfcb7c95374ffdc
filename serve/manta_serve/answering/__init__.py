"""The way from a request to its answer: the services of a replica's models, the shadow, explanations."""
