"""The sockets that clients and their peers come to: UDP, TCP and TLS, and the packets between them."""
