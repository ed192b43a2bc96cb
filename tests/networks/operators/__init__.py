"""All operators, one family a file."""
