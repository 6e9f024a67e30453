"""The page of src.story: three runs, what is measured on them, figures, and a template."""
