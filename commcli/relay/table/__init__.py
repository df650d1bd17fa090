"""The routing table as a node holds it: its files, their signature, its rows and the law of zones."""
