"""The HTTP API: its routes, the schemas of what they take and return, and its documentation."""
