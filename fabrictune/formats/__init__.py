"""A Dialogue to and from a client's text: one module a format."""
