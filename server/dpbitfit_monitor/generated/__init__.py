"""Made from the .proto file beside this folder: ``make proto``."""
