"""What a site allows: its policy file, read and explained."""
