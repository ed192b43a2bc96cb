"""Random networks as Python source, and small networks for what users of other tools complained about."""
