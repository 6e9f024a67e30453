"""Train, judge and understand generative models of cat faces.

Dependencies point one way; tests/test_layering.py holds them to it:

    train, evaluate, sample,
    latents, story,
    inspect_data               entry points: wiring only, and no torch until the config is checked
      -> story_page            the runs of src.story, what is measured on them, the page
      -> inspection_page       numbers and examples of a set of images, and the page that shows them
      -> cli, sweep            from the command line to a checked config; the jobs of a sweep
      -> fit, resume, summary  what one process of a run does, takes along from before, and leaves
      -> launch, cluster       the processes of a run; those that torchrun or SLURM started
      -> checkpoint, vetting,
         untrusted             a model from its file alone, which nobody vouches for
      -> callbacks, logger     what happens beside the training steps
      -> judge, judge_codes,
         generalization        losses and distances, what codes know, whether samples are copies
      -> latent_images,
         latent_space          directions, paths and maps of codes, and the files that show them
      -> models                LightningModules; networks and objectives are injected
      -> data                  one LightningDataModule over sources of images
      -> metrics               torchmetrics
      -> objectives, networks  torch only
      -> schedules             numbers that change over a run
      -> html                  pages of one file
      -> progress              what takes long says so
      -> images, images      the one way from [-1, 1] to bytes and back; image files
      -> seal                  a digest inside a checkpoint file
      -> check, schema         a config is held to the signatures of the constructors it names
      -> seeds, errors, cache  seeds for each purpose; mistakes of the user; what is kept for all runs
"""
