"""What queries cost, on all nodes, and which indexes would have made them cheaper."""
