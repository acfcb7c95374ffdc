"""The clients of what answers the page over HTTP: the Serve API and the registry."""
