"""How good models are, over whole shard sets."""
