"""Jobs on a remote cluster: the files they carry, sending them, and following them."""
