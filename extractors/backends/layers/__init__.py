"""Motion layers, by which `lucas-kanade` holds its matches together."""
