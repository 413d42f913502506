"""What the coordinator runs: the strategy, the evaluation and the report."""
