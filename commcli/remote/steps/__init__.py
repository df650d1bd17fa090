"""The steps of playbooks, one word a module. They run on the node: standard library only, Python 3.9 or newer."""
