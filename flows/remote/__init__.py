"""Files behind URIs, and local copies of them; knows nothing of packets."""
