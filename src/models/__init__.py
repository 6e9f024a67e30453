"""LightningModules over injected networks and objectives; all of them `sample`."""
