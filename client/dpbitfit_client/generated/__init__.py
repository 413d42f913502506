"""Made from ``guard.proto`` by ``make proto``; never edited."""
