"""What a site runs: its data, its guard and the Flower client."""
