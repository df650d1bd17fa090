"""What was measured, published and done: SQLite, and the lock of changing commands."""
