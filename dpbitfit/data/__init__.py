"""Records: read from tables, split over sites, made up."""
