"""What people see: drawers, one noun a file, over the JSON documents that commands make."""
