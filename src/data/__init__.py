"""Pictures: where they come from (sources, public, drawn_cats) and how they reach a model (datamodule)."""
