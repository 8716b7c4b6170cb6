"""HTTP: one listening socket, a fast path for queries, aiohttp for everything else."""
