"""Objects from a config: an experiment that is about to train, and a trained model out of a run's folder."""
