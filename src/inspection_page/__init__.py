"""The page of src.inspect_data: numbers of a set of pictures, examples, and a template."""
