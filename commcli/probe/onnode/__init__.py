"""What `probe edge` runs where it looks from, here or on a node: python 3.9, no other library."""
