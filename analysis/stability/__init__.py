"""What of a dictionary comes back when its SAE is trained again with another seed."""
