"""CNNs that capsule networks are compared with; one paper, one file."""
