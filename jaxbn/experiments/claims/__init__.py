"""Claims: an experiment a file, named in `jaxbn.experiments._registry`.

A file that has no `run` is what others are made of:

    _sweep, _small_batches, _styled_groups      normalization batch sizes
    _deep_net, _convergence, _regression_training, _dropout, _regularization_training,
    _smoothness_probe                           nets and trainings of the seeds' claims
    _precise_measures, _precise_passes, _precise_views     precise_statistics
    _shifted, _domains                          domain_shift, multi_domain
    _patterns, _contrasts, _pairs               pattern_leakage, contrastive_leakage
    _sync_training                              sync_and_local
"""
