"""Train, judge and understand generative models of cat faces.

Dependencies point one way; tests/test_layering.py holds them to it:

    train, evaluate, sample,
    latents, story,
    inspect_data               entry points: wiring only, and no torch until the config is checked
      -> cli, check            from the command line to a config that fits the constructors it names
      -> sweep, cluster        the jobs of a sweep; processes that torchrun or SLURM started
      -> launch, fit, summary  the processes of a run, and what one of them does
      -> resume                what a run that goes on takes along
      -> checkpoint, untrusted a model from its file alone, which nobody vouches for
      -> generalization        whether its samples are copies
      -> story_page            the runs of src.story, what is measured on them, the page
      -> latent_pictures,
         latent_space          directions, paths and maps of codes, and the files that show them
      -> inspection            numbers and examples of a set of pictures, and the page that shows them
      -> callbacks, logger     what happens beside the training steps
      -> models                LightningModules; networks and objectives are injected
      -> data                  one LightningDataModule over sources of pictures
      -> metrics               torchmetrics
      -> objectives, networks  torch only
      -> schedules             numbers that change over a run
      -> progress              what takes long says so
      -> images, pictures      the one way from [-1, 1] to bytes and back; picture files
      -> seal                  a digest inside a checkpoint file
      -> schema, seeds, errors what a config's value may be; seeds for each purpose; mistakes of the user
"""
