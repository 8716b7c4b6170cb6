"""The write side of a node: group commit, and the feeds that replicas follow."""
