"""The page of src.inspect_data: numbers of a set of images, examples, and a template."""
