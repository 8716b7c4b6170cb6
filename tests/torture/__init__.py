"""Long runs with random faults against real node processes: `python -m tests.torture`."""
