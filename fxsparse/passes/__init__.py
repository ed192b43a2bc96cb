"""Passes over a network, one file each. None is written yet; `Network.shrink` and `Network.regrow` are what they will stand on."""
