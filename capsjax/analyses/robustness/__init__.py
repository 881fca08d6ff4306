"""What trained networks say to images unlike those that they were trained on."""
