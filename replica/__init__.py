"""The following side of a node: receive, apply, wait, bootstrap, forward."""
