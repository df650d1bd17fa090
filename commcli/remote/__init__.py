"""SSH: connections, the streamed executor, playbooks."""
