"""What a coordinator and a site say to each other, and how it is signed."""
