"""Is each node fit to carry calls? Facts are gathered in one exchange a node; judging them is pure."""
