"""Manta fine-tunes text classifiers on Ray and keeps the best one.

This package defines a run: its config, data, model, metrics, artifact and registry. It starts neither Ray nor a web server.
`manta_jobs` runs on the cluster, `manta_serve` answers over HTTP, `manta_ui` is the page.
"""

__version__ = "0.1.0"
