"""What happens beside the training steps: run length, logging, evaluation, image grids, checkpoints, progress.

Every interval is in images seen. The last step of a run is due for everything: RunLength, the first callback, sets
trainer.should_stop there.
"""
