"""Train, judge and understand generative models of cat faces.

Dependencies point one way; tests/test_layering.py holds them to it:

    train, evaluate, sample    entry points: wiring only
      -> models, callbacks     Lightning; networks and objectives are injected by the config
      -> data                  one LightningDataModule over sources of pictures
      -> metrics               torchmetrics
      -> objectives, networks  torch only
      -> images                the one way from [-1, 1] to uint8 and back
      -> seeds                 seeds for each purpose, from one
"""
