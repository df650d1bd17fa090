"""The island: what runs on a node. Standard library only (Python 3.9 or newer), shipped as one zipapp."""
