"""The node: command line, configuration, catalog, router, HTTP, metrics."""

__version__ = "0.1.0"
