"""One model per file, each an adapter to the protocol of its signal."""
