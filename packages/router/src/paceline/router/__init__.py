"""The front door: registry, choice of drafters by what they earn, relay of tokens, failover."""
