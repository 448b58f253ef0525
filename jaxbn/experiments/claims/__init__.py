"""Claims: an experiment a file, named in `jaxbn.experiments._registry`.

A file that has no `measure` is what others are made of:

    _sweep, _small_batches, _styled_groups      normalization batch sizes
    _deep_net, _convergence, _regression_training, _dropout, _regularization_training,
    _smoothness_probe                           nets and trainings of tutorials' claims
    _precise_measures, _precise_passes, _precise_views     precise_statistics
    _shifted, _domains                          domain_shift, multi_domain
    _patterns, _contrasts, _pairs               pattern_leakage, contrastive_leakage
    _sync_training                              sync_and_local
    _residual_training, _residual_measures, _residual_claims, _residual_views
                                                residual_net
"""
