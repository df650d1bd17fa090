"""What is streamed to a node and runs there: stdlib only, Python 3.9 or newer, nothing left behind."""
