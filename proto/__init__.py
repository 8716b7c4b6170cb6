"""Bytes to values and back: tokens, commit records, link messages, D1 bodies. No I/O."""
