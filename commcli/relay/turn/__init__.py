"""TURN as a value machine (RFC 8656): messages, credentials, allocations, whom a client may reach. No socket here."""
