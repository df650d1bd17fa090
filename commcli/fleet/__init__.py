"""What exists: nodes, regions, markets, zones."""
