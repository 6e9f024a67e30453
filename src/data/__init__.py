"""Images: where they come from (sources, public, drawn_cats), how they reach a model (datamodule), and how they are
changed at random on the way (augmentation)."""
