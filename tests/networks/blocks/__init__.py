"""Modules whose source is copied into the random networks that use them."""
