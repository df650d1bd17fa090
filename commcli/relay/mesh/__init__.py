"""Relays measuring each other with STAMP (RFC 8762)."""
