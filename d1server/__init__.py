"""The node: command line, configuration, catalog, router, HTTP, metrics."""
