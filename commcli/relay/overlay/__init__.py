"""Packets between relays: source routes, their authentication, and which path is alive."""
