"""Training of the networks: one loop, the data of the restoring networks, their losses."""
